"""Silences: alerts of some servers and rules that no receiver is notified of until a time. Has no clock."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from streamd.core.errors import InvalidInputError, InvalidSelectionError, TooBusyError
from streamd.core.globs import has_wildcard
from streamd.core.selection import ServerGlobs

MAX_SILENCES = 1_000
"""Silences that hold at the same time."""

MAX_SILENCE_SECONDS = 30 * 86_400.0
"""The longest silence; what is forgotten must not stay silent for ever."""

MAX_SILENCED_SERVERS = 100
"""Names and globs in one silence."""

MAX_SILENCE_GLOB_CHARACTERS = 32_768
"""Characters of the globs of all silences together; each alert that begins is compared with them: 1 ms for so many."""

MAX_SERVER_CHARACTERS = 256
MAX_WHY_CHARACTERS = 1_000
MAX_WHO_CHARACTERS = 200


@dataclass(frozen=True, kw_only=True)
class Silence:
    """The choice of alerts that no receiver is notified of, from when it was made until a time (epoch seconds)."""

    id: str
    servers: tuple[str, ...]
    """Names and globs."""
    rules: tuple[str, ...] | None
    """Names of rules; `None`: all rules."""
    starts_at: float
    ends_at: float
    who: str
    why: str


def check_silence(silence: Silence, known_rules: Sequence[str]) -> None:
    """Raise `InvalidInputError` or `InvalidSelectionError` for a silence that cannot be meant.

    `starts_at` is the present time. The message names the key, what it is and what was expected.
    """
    _check_servers(silence.servers)
    _check_rules(silence.rules, known_rules)
    seconds = silence.ends_at - silence.starts_at
    if not 0 < seconds <= MAX_SILENCE_SECONDS:  # also for NaN
        days = MAX_SILENCE_SECONDS / 86_400
        raise InvalidInputError(
            f"the silence would end {seconds:.10g} s from now, expected more than 0 and at most {days:g} days"
        )
    _check_text("why", silence.why, MAX_WHY_CHARACTERS)
    _check_text("who", silence.who, MAX_WHO_CHARACTERS)


def _check_servers(servers: Sequence[str]) -> None:
    if not 0 < len(servers) <= MAX_SILENCED_SERVERS:
        raise InvalidSelectionError(
            f"servers has {len(servers)} names and globs, expected 1 to {MAX_SILENCED_SERVERS}; '*' is every server"
        )
    for server in servers:
        if not 0 < len(server) <= MAX_SERVER_CHARACTERS:
            raise InvalidSelectionError(
                f"servers has {server[:32]!r} of {len(server)} characters, expected 1 to {MAX_SERVER_CHARACTERS}"
            )
    ServerGlobs(servers)  # refuses globs that take too long to match


def _check_rules(rules: Sequence[str] | None, known: Sequence[str]) -> None:
    if rules is None:
        return
    if not rules:
        raise InvalidSelectionError("rules is empty, expected names of rules, or no rules at all for every rule")
    for rule in rules:
        if rule not in known:
            raise InvalidSelectionError(f"rules has {rule[:80]!r}, expected some of {', '.join(known) or 'no rule'}")


def _check_text(key: str, text: str, longest: int) -> None:
    if not text.strip() or len(text) > longest:
        raise InvalidInputError(f"{key} has {len(text)} characters, expected 1 to {longest}, and not only spaces")


class SilenceSet:
    """The silences that hold, and which alerts they choose."""

    def __init__(self, silences: Iterable[Silence] = ()) -> None:
        self._held: dict[str, _HeldSilence] = {}
        self._by_end: list[_HeldSilence] = []  # the one that ends last comes first
        self._hold(silences)

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[Silence]:
        return (held.silence for held in self._held.values())

    def get(self, silence_id: str) -> Silence | None:
        """Return the silence of an id; `None` if no silence that holds has it."""
        held = self._held.get(silence_id)
        return None if held is None else held.silence

    def add(self, silence: Silence) -> None:
        """Let a silence hold; raises `TooBusyError` as `require_space` does."""
        self.require_space(silence)
        self._hold([silence])

    def require_space(self, silence: Silence) -> None:
        """Raise `TooBusyError` if no silence more may hold, or not one with so many globs."""
        if len(self._held) >= MAX_SILENCES:
            raise TooBusyError(f"{MAX_SILENCES} silences hold already, which is the most; end some of them")
        held = sum(each.glob_characters for each in self._held.values())
        new = count_glob_characters(silence)
        if new and held + new > MAX_SILENCE_GLOB_CHARACTERS:
            raise TooBusyError(
                f"the globs of this silence have {new} characters, and those of the silences that hold {held}, "
                f"expected at most {MAX_SILENCE_GLOB_CHARACTERS} together; end some of them, or give names"
            )

    def remove(self, silence_id: str) -> None:
        """Let a silence hold no more. A second call does nothing."""
        held = self._held.pop(silence_id, None)
        if held is not None:
            self._by_end.remove(held)

    def remove_ended(self, now: float) -> list[Silence]:
        """Remove and return the silences whose end has come.

        A clock that goes back before the start of a silence does not matter: only the end counts.
        """
        ended = [silence for silence in self if silence.ends_at <= now]
        for silence in ended:
            self.remove(silence.id)
        return ended

    def matches(self, silence_id: str, rule: str, server: str) -> bool:
        """Whether a silence that holds chooses the alert of a rule and a server."""
        return self._held[silence_id].matches(rule, server)

    def find_end(self, rule: str, server: str) -> float | None:
        """Return the end of the silence that ends last, of those that choose an alert; `None` if none does."""
        return next((held.silence.ends_at for held in self._by_end if held.matches(rule, server)), None)

    def _hold(self, silences: Iterable[Silence]) -> None:
        for silence in silences:
            self._held[silence.id] = _HeldSilence(silence)
        self._by_end = sorted(self._held.values(), key=lambda held: held.silence.ends_at, reverse=True)


class _HeldSilence:
    __slots__ = ("_globs", "_rules", "glob_characters", "silence")

    def __init__(self, silence: Silence) -> None:
        self.silence = silence
        self.glob_characters = count_glob_characters(silence)
        self._globs = ServerGlobs(silence.servers)
        self._rules = None if silence.rules is None else frozenset(silence.rules)

    def matches(self, rule: str, server: str) -> bool:
        return (self._rules is None or rule in self._rules) and self._globs.matches(server)


def count_glob_characters(silence: Silence) -> int:
    """Return the number of characters of a silence's globs; names do not count."""
    return sum(len(each) for each in silence.servers if has_wildcard(each))
