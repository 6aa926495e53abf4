"""Tests `streamd/tools/top/`: what is read over HTTP from a daemon, what is computed of it, and the frames."""

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.errors import ConfigError
from streamd.tools.top import command
from streamd.tools.top.command import FrameSource
from streamd.tools.top.errors import NoStatusError
from streamd.tools.top.rates import SampleChange, estimate_quantile
from streamd.tools.top.reader import DaemonReader, DaemonSample, parse_metrics
from streamd.tools.top.screen import clip_lines, draw_frame, format_duration, format_memory, format_seconds

STATUS: dict[str, Any] = {
    "engine": "patch_1",
    "backend": "tensorrt",
    "ready": True,
    "capacity": 400,
    "lanes": [{"name": "lane-0", "device": "cuda:0", "batches": 3, "windows": 24, "failures": 0, "busy_seconds": 1.5}],
}


def make_metrics(uptime_seconds: float, rows: int, ages: tuple[int, int] = (0, 0)) -> str:
    """Return the metrics of a daemon: `rows` that closed and were delivered, and ages up to 0.1 s and above 0.1 s."""
    fast, slow = ages
    return f"""\
# TYPE streamd_uptime_seconds gauge
streamd_uptime_seconds {uptime_seconds}
# TYPE streamd_rows counter
streamd_rows_total{{state="closed"}} {rows}
streamd_rows_total{{state="delivered"}} {rows}
# TYPE streamd_samples counter
streamd_samples_total{{result="accepted"}} {rows}
streamd_samples_total{{result="too_old"}} {rows // 10}
# TYPE streamd_agent_bodies counter
streamd_agent_bodies_total{{protocol="influx"}} {rows}
# TYPE streamd_batches counter
streamd_batches_total{{reason="lane_lost"}} 0
streamd_batches_total{{reason="cheaper_split"}} 2
streamd_batches_total{{reason="all_waiting"}} {rows}
# TYPE streamd_forecast_age_seconds histogram
streamd_forecast_age_seconds_bucket{{le="0.1"}} {fast}
streamd_forecast_age_seconds_bucket{{le="1.0"}} {fast + slow}
streamd_forecast_age_seconds_bucket{{le="+Inf"}} {fast + slow}
streamd_forecast_age_seconds_count {fast + slow}
streamd_forecast_age_seconds_sum 1
"""


@dataclass
class ServedDaemon:
    """The answers of an HTTP server, by path, and the tokens that it was given."""

    url: str = ""
    status_code: int = 200
    documents: dict[str, bytes] = field(default_factory=dict)
    tokens: list[str | None] = field(default_factory=list)


@contextmanager
def serving() -> Iterator[ServedDaemon]:
    """Serve the documents of a daemon from a thread."""
    served = ServedDaemon(
        documents={"/metrics": make_metrics(5.0, 10).encode(), "/v1/status": json.dumps(STATUS).encode()}
    )

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.tokens.append(self.headers.get("Authorization"))
            body = served.documents.get(self.path, b"")
            self.send_response(served.status_code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


def make_sample(taken_at: float, metrics: str, **status: Any) -> DaemonSample:
    return DaemonSample(taken_at=taken_at, values=parse_metrics(metrics), status={**STATUS, **status})


# ---------------------------------------------------------------- reading
def test_both_documents_are_read_with_the_token_in_a_header() -> None:
    with serving() as served:
        sample = DaemonReader(served.url + "/", "secret").read()
    assert sample.get("streamd_rows_total", state="closed") == 10.0
    assert sample.sum("streamd_samples_total") == 11.0
    assert sample.status["engine"] == "patch_1"
    assert served.tokens == ["Bearer secret"] * 2


def test_a_refused_token_is_explained_and_never_shown() -> None:
    with serving() as served:
        served.status_code = 401
        with pytest.raises(NoStatusError, match="a token with the scope read is needed") as caught:
            DaemonReader(served.url, "secret").read()
    assert "secret" not in str(caught.value)


def test_a_daemon_that_is_away_or_is_none_is_named() -> None:
    with serving() as served:
        served.documents["/v1/status"] = b"<html>"
        with pytest.raises(NoStatusError, match="does not answer as a streamd does"):
            DaemonReader(served.url).read()
        served.status_code = 500
        with pytest.raises(NoStatusError, match="HTTP 500"):
            DaemonReader(served.url).read()
    with pytest.raises(NoStatusError, match=r"no answer from http://127\.0\.0\.1"):
        DaemonReader(served.url).read()


@pytest.mark.parametrize(
    "url", ["127.0.0.1:8002", "ftp://host", "http://user:secret@host", "http://h?token=secret", "http://h:x"]
)
def test_a_url_that_is_not_the_base_of_a_daemon_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        DaemonReader(url)


# ---------------------------------------------------------------- rates and quantiles
def test_rates_are_those_between_two_samples() -> None:
    change = SampleChange(make_sample(0.0, make_metrics(5.0, 100)), make_sample(2.0, make_metrics(7.0, 300)))
    assert change.get_rate("streamd_rows_total", state="closed") == 100.0
    assert change.get_rate("streamd_samples_total") == 110.0
    assert change.get_share(1.5, 0.5) == 0.5
    assert SampleChange(None, make_sample(0.0, make_metrics(5.0, 100))).get_rate("streamd_samples_total") is None


def test_a_restart_gives_no_rates_and_is_shown() -> None:
    before, now = make_sample(0.0, make_metrics(500.0, 100)), make_sample(2.0, make_metrics(1.0, 3, (1, 0)))
    change = SampleChange(before, now)
    assert change.get_rate("streamd_samples_total") is None
    assert change.estimate_quantiles("streamd_forecast_age_seconds", [0.5]) == [0.05], "since the start"
    assert "RESTARTED" in draw_frame(change, "http://h", before)[0]


def test_quantiles_are_those_of_the_observations_in_between() -> None:
    before = make_sample(0.0, make_metrics(5.0, 0, (1_000, 0)))
    now = make_sample(2.0, make_metrics(7.0, 0, (1_000, 10)))
    assert SampleChange(before, now).estimate_quantiles("streamd_forecast_age_seconds", [0.5]) == [pytest.approx(0.55)]


BOUNDS = [0.5, 1.0, 2.0, 4.0]


@given(st.lists(st.floats(0.0, 3.9), min_size=1), st.floats(0.0, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_observation(values: list[float], quantile: float) -> None:
    buckets = [(bound, float(sum(value <= bound for value in values))) for bound in BOUNDS]
    found = estimate_quantile([*buckets, (float("inf"), float(len(values)))], quantile)
    assert found is not None
    ordered = sorted(values)
    rank = max(-(-quantile * len(values) // 1), 1.0)
    true = ordered[int(rank) - 1]
    upper = next(bound for bound in BOUNDS if true <= bound)
    lower = max((bound for bound in BOUNDS if bound < true), default=0.0)
    assert lower <= found <= upper


def test_a_quantile_above_the_last_bound_is_that_bound_and_no_observation_has_none() -> None:
    assert estimate_quantile([(1.0, 0.0), (float("inf"), 5.0)], 0.5) == 1.0
    assert estimate_quantile([(1.0, 0.0), (float("inf"), 0.0)], 0.5) is None
    assert estimate_quantile([], 0.5) is None


# ---------------------------------------------------------------- frames
def test_a_frame_shows_rates_lanes_latency_and_agents() -> None:
    before = make_sample(0.0, make_metrics(5.0, 100))
    lanes = [{**STATUS["lanes"][0], "busy_seconds": 2.5, "batches": 1_003}]
    now = make_sample(2.0, make_metrics(7_207.0, 30_100, (10, 0)), lanes=lanes, stall="8 windows wait")
    frame = "\n".join(draw_frame(SampleChange(before, now), "http://h:8002", before))
    for text in ("up 2 h 0 min", "patch_1 on tensorrt", "STUCK: 8 windows wait", "rows/s 15,000", "rejected/s 1,500"):
        assert text in frame
    for text in ("capacity 400", "50.0 ms", "lane-0", "1,003", "50 %", "influx"):
        assert text in frame
    assert "batches   all_waiting 30,100   cheaper_split 2\n" in frame


def test_an_empty_status_still_gives_a_frame() -> None:
    now = DaemonSample(taken_at=0.0, values={}, status={})
    assert any("NOT READY" in line for line in draw_frame(SampleChange(None, now), "http://h"))


def test_lines_are_cut_to_the_terminal_and_cannot_command_it() -> None:
    assert clip_lines(["abcdef", "abc"], 4) == ["abc…", "abc"]
    assert clip_lines(["a", "b", "c"], 4, rows=2) == ["a", "b"]
    assert clip_lines(["a\x1b[2Jb\n"], 80) == ["a?[2Jb?"]


def test_numbers_have_units() -> None:
    assert (format_memory(3 * 2**30), format_memory(2**21), format_memory(None)) == ("3.00 GiB", "2 MiB", "-")
    assert (format_seconds(0.0123), format_seconds(2.5), format_seconds(None)) == ("12.3 ms", "2.50 s", "-")
    assert (format_duration(61.0), format_duration(90_000.0)) == ("1 min 1 s", "1 d 1 h")


# ---------------------------------------------------------------- the command
def run_top(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    import argparse

    monkeypatch.setenv("COLUMNS", "100")
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.main(parser.parse_args(arguments))


def test_one_frame_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("STREAMD_TOKEN", "from-variable")
    with serving() as served:
        assert run_top(monkeypatch, "--once", "--interval", "0.001", "--url", served.url) == 0
    shown = capsys.readouterr().out
    assert "patch_1 on tensorrt" in shown
    assert "\x1b" not in shown
    assert set(served.tokens) == {"Bearer from-variable"}


def test_one_frame_of_a_daemon_that_is_away_is_exit_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_top(monkeypatch, "--once", "--url", "http://127.0.0.1:1") == 1
    assert capsys.readouterr().err.startswith("streamd top: no answer from http://127.0.0.1:1")


class FakeTerminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_live_view_survives_a_daemon_that_is_away_and_restores_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    samples: Iterator[DaemonSample | NoStatusError] = iter(
        [make_sample(0.0, make_metrics(5.0, 1)), NoStatusError("away"), make_sample(4.0, make_metrics(1.0, 1))]
    )
    frames = 0

    def read() -> DaemonSample:
        sample = next(samples)
        if isinstance(sample, NoStatusError):
            raise sample
        return sample

    def sleep(seconds: float) -> None:
        nonlocal frames
        frames += 1
        if frames == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setenv("TERM", "xterm")
    terminal = FakeTerminal()
    with pytest.raises(KeyboardInterrupt):
        command._show_frames(FrameSource(read, "http://h"), 2.0, terminal)
    shown = terminal.getvalue()
    assert shown.startswith("\x1b[?1049h")
    assert shown.endswith("\x1b[?1049l")
    assert "away" in shown
    assert "RESTARTED" in shown
