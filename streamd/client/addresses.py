"""The addresses under which a daemon, or the nodes of a cluster, are reached, and the one in use. Pure."""

from collections.abc import Sequence

import yarl

from streamd.client.errors import ClientError, DaemonUnreachableError, RefusedError

_OF_THIS_NODE = frozenset({502, 503, 504})
_CODES_OF_THIS_NODE = frozenset({"draining", "unavailable", "lane_lost"})


class Addresses:
    """Base URLs, of which the first is used until it fails; then the next one, and after the last the first again."""

    def __init__(self, urls: str | Sequence[str]) -> None:
        """Raises `ValueError` if one is not the base of an HTTP URL, or the list is empty."""
        given = [urls] if isinstance(urls, str) else list(urls)
        self._bases = tuple(dict.fromkeys(parse_base_url(url) for url in given))
        if not self._bases:
            raise ValueError("no address of a daemon is given")
        self.current = self._bases[0]
        """The address in use."""
        self._failed: set[str] = set()

    def note_answer(self, base: str) -> None:
        """Note that an address answers."""
        self._failed.discard(base)

    def leave(self, base: str, error: ClientError) -> bool:
        """Use the next address after a failure of `base`, unless that is not in use any more.

        Returns whether the address that is in use now has not failed yet: then there is no reason to wait long. A limit
        of the caller's token, or an error of the call itself, is no reason to use another address.
        """
        if len(self._bases) == 1 or not _is_failure_of_node(error):
            return False
        self._failed.add(base)
        if self.current == base:
            self.current = self._bases[(self._bases.index(base) + 1) % len(self._bases)]
        if self.current not in self._failed:
            return True
        self._failed.clear()  # all were tried: the next round may be better
        return False


def _is_failure_of_node(error: ClientError) -> bool:
    if isinstance(error, RefusedError):
        return error.status in _OF_THIS_NODE if error.status is not None else error.code in _CODES_OF_THIS_NODE
    return isinstance(error, DaemonUnreachableError) and error.is_temporary


def parse_base_url(url: str) -> str:
    """Return the URL under which the paths of the daemon lie; raises `ValueError`.

    It may have a path of its own, as behind a proxy that serves the daemon under `https://host/streamd/`.
    """
    try:
        parsed = yarl.URL(url)
    except ValueError as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not the URL of a daemon, expected one such as http://127.0.0.1:8002")
    if parsed.user is not None or parsed.query_string or parsed.fragment:
        raise ValueError("the URL of the daemon has a user, a query or a fragment; a token has its own parameter")
    return str(parsed).rstrip("/")
