"""Pushes the documents of pcp2json to `POST /pcp`, each as soon as it is complete.

pcp2json before 6.0.5 cannot send; it prints one document when its run ends. A document of a long run is cut into bodies
of whole samples, so that the daemon can take it.
"""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from streamd.core.errors import ConfigError, MalformedError
from streamd.protocols.pcp import MAX_DOCUMENT_BYTES, list_host_tables, read_document, split_documents
from streamd.tools.daemon_token import TOKEN_VARIABLE, read_token
from streamd.tools.ingest.push import DaemonPusher, PushedPoints

DESCRIPTION = (
    "Push the output of pcp2json to a daemon: pcp2json -Z UTC -t 10 -s 6 METRIC... | streamd ingest pcp2json -"
)

MAX_PUSH_BYTES = 2**20
"""The largest size of a body with more than one sample. The daemon takes eight times as much by default."""

MAX_SHOWN_ERRORS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("file", metavar="FILE", help="the output of pcp2json; - is standard input")
    parser.add_argument(
        "--url", default="http://127.0.0.1:8002", metavar="URL", help="the daemon [default: http://127.0.0.1:8002]"
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"file with the token, of the scope ingest [default: the variable {TOKEN_VARIABLE}]",
    )


def main(args: argparse.Namespace) -> int:
    """Push all documents and print what became of their points; returns the exit status."""
    pusher = DaemonPusher(args.url, "/pcp", read_token(args.token_file))
    total, documents = PushedPoints(rejected=0), 0
    try:
        with _open_input(args.file) as stream:
            for document in split_documents(iter(lambda: stream.readline(MAX_DOCUMENT_BYTES + 1), b"")):
                documents += 1
                for body in cut_document(document, MAX_PUSH_BYTES):
                    total.add(pusher.push(body))
        if not documents:
            raise MalformedError("the input has no document; expected the output of pcp2json")
    finally:
        if documents:
            _print_total(total, documents)
    return 1 if total.rejected and not total.taken else 0


@contextmanager
def _open_input(file: str) -> Iterator[BinaryIO]:
    if file == "-":
        with _outlive_interrupt():
            yield sys.stdin.buffer
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - the error of reading is another one
    except OSError as exc:
        raise ConfigError(f"{file}: {exc.strerror}") from exc
    with stream:
        yield stream


@contextmanager
def _outlive_interrupt() -> Iterator[None]:
    """Ignore the first Ctrl-C. It ends pcp2json at the other end of the pipe, which prints its document only then."""
    former = signal.signal(signal.SIGINT, lambda *_: signal.signal(signal.SIGINT, signal.default_int_handler))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def cut_document(document: bytes, max_bytes: int) -> Iterator[bytes]:
    """Yield documents of at most `max_bytes` that together have the samples of this one, in order.

    A single sample that is longer is a document of its own. Raises `MalformedError` if this is not a document of
    pcp2json.
    """
    for host in list_host_tables(read_document(document)):
        head = {key: value for key, value in host.items() if key != "@metrics"}
        part, size = list[str](), 0
        for sample in host["@metrics"]:
            text = json.dumps(sample, separators=(",", ":"))
            if part and size + len(text) > max_bytes:
                yield _join_document(head, part)
                part, size = [], 0
            part.append(text)
            size += len(text) + 1
        if part:
            yield _join_document(head, part)


def _join_document(head: dict[str, Any], samples: list[str]) -> bytes:
    host = json.dumps({**head, "@metrics": []}, separators=(",", ":"))
    return f'{{"@pcp":{{"@hosts":[{host[:-2]}{",".join(samples)}]}}]}}}}'.encode()


def _print_total(total: PushedPoints, documents: int) -> None:
    print(
        f"documents {documents}, points taken {total.taken}, ignored {total.ignored}, skipped {total.skipped}, "
        f"rejected {total.rejected}"
    )
    for error in total.errors[:MAX_SHOWN_ERRORS]:
        print(f"rejected: {error.message}", file=sys.stderr)
