"""Show a running daemon's rates, lanes, queue, latency, agents and memory in the terminal.

Draws on the alternate screen with plain escape sequences; without a terminal, frames follow one another.
"""

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from streamd.tools.daemon_token import CERTIFICATE_HELP, TOKEN_VARIABLE, read_token
from streamd.tools.top.errors import NoStatusError

if TYPE_CHECKING:  # so that --help loads nothing heavy
    from streamd.tools.top.reader import DaemonSample

DEFAULT_DAEMON_URL = "http://127.0.0.1:8002"

TOP_EPILOG = f"""\
A daemon with tokens needs one with the scope read: in the variable {TOKEN_VARIABLE} or in a file, never as an argument,
which every user of the machine could see. `streamd top` goes on while the daemon restarts; Ctrl-C ends it.
{CERTIFICATE_HELP}.

exit status: 0 ended; 1 no frame could be read (--once); 2 wrong usage"""

_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # the alternate screen, without a cursor
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = TOP_EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--url", default=DEFAULT_DAEMON_URL, metavar="URL", help=f"the daemon [default: {DEFAULT_DAEMON_URL}]"
    )
    parser.add_argument(
        "--interval", type=_parse_interval, default=2.0, metavar="S", help="seconds between frames [default: 2]"
    )
    parser.add_argument("--once", action="store_true", help="print one frame, of the rates over one interval, and end")
    parser.add_argument(
        "--token-file", type=Path, metavar="FILE", help=f"file with the token [default: the variable {TOKEN_VARIABLE}]"
    )


def main(args: argparse.Namespace) -> int:
    """Show frames until interrupted, or one; return the exit status. Raises `ConfigError`."""
    from streamd.tools.top.reader import DaemonReader

    reader = DaemonReader(args.url, read_token(args.token_file))
    try:
        if args.once:
            return _print_once(FrameSource(reader.read, reader.shown), args.interval)
        _show_frames(FrameSource(reader.read, reader.shown), args.interval, sys.stdout)
    except KeyboardInterrupt:
        return 0
    return 0


class FrameSource:
    """Makes frames from samples, each with the rates since the one before."""

    def __init__(self, read: "Callable[[], DaemonSample]", shown: str) -> None:
        self._read = read
        self._shown = shown
        self._before: DaemonSample | None = None

    def take(self) -> list[str]:
        """Read the daemon and return the lines of a frame. Raises `NoStatusError`."""
        from streamd.tools.top.rates import SampleChange
        from streamd.tools.top.screen import draw_frame

        now = self._read()
        before, self._before = self._before, now
        return draw_frame(SampleChange(before, now), self._shown, before)


def _print_once(frames: FrameSource, interval_seconds: float) -> int:
    from streamd.tools.top.screen import clip_lines

    try:
        frames.take()
        time.sleep(interval_seconds)
        lines = frames.take()
    except NoStatusError as exc:
        print(f"streamd top: {exc}", file=sys.stderr)
        return 1
    columns = shutil.get_terminal_size((120, 24)).columns
    print("\n".join(clip_lines(lines, columns)))
    return 0


def _show_frames(frames: FrameSource, interval_seconds: float, stream: TextIO) -> None:
    """Show a frame at each interval; while the daemon is away, the reason."""
    with _alternate_screen(stream) as show:
        while True:
            try:
                lines = frames.take()
            except NoStatusError as exc:
                lines = [str(exc), "", f"trying again every {interval_seconds:g} s; Ctrl-C ends"]
            show(lines)
            time.sleep(interval_seconds)


@contextmanager
def _alternate_screen(stream: TextIO) -> "Iterator[Callable[[list[str]], None]]":
    """Give a function that shows lines in place of the former ones; the terminal is restored in the end."""
    from streamd.tools.top.screen import clip_lines

    is_terminal = stream.isatty() and os.environ.get("TERM") != "dumb"

    def show(lines: list[str]) -> None:
        size = shutil.get_terminal_size((120, 40))  # again for each frame: the window may have been resized
        if is_terminal:
            cut = clip_lines(lines, size.columns, size.lines - 1)
            stream.write(_HOME + "".join(f"{line}{_CLEAR_LINE}\n" for line in cut) + _CLEAR_BELOW)
        else:
            stream.write("\n".join([*clip_lines(lines, size.columns), "", ""]))
        stream.flush()

    stream.write(_ENTER if is_terminal else "")
    try:
        yield show
    finally:
        stream.write(_LEAVE if is_terminal else "")
        stream.flush()


def _parse_interval(text: str) -> float:
    seconds = float(text)
    if not 0.0 < seconds <= 3_600.0:
        raise argparse.ArgumentTypeError(f"{text}: expected seconds above 0, at most 3600")
    return seconds
