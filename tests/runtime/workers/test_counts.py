"""Tests `streamd/runtime/workers/counts.py`: sums over processes."""

from streamd.runtime.workers.counts import merge_metrics, merge_status

ENGINE = b"""# HELP streamd_samples_total Samples by result
# TYPE streamd_samples_total counter
streamd_samples_total{result="accepted"} 0.0
# HELP streamd_due Servers that wait for a lane
# TYPE streamd_due gauge
streamd_due 3.0
"""
WORKER = b"""# HELP streamd_samples_total Samples by result
# TYPE streamd_samples_total counter
streamd_samples_total{result="accepted"} 5.0
streamd_samples_total{result="too_old"} 2.0
# HELP streamd_due Servers that wait for a lane
# TYPE streamd_due gauge
streamd_due 9.0
"""


def test_metrics_of_each_process_are_added_and_others_are_those_of_the_engine_process() -> None:
    lines = merge_metrics(ENGINE, [WORKER, WORKER]).decode().splitlines()
    assert lines == [
        "# HELP streamd_samples_total Samples by result",
        "# TYPE streamd_samples_total counter",
        'streamd_samples_total{result="accepted"} 10.0',
        'streamd_samples_total{result="too_old"} 4.0',
        "# HELP streamd_due Servers that wait for a lane",
        "# TYPE streamd_due gauge",
        "streamd_due 3.0",
    ]


def test_a_label_that_only_workers_have_stands_with_its_family() -> None:
    family = b"# HELP streamd_refused_frames_total x\n# TYPE streamd_refused_frames_total counter\n# HELP streamd_z z\n"
    worker = b'streamd_refused_frames_total{code="malformed"} 1.0\n'
    lines = merge_metrics(family, [worker]).decode().splitlines()
    assert lines[2] == 'streamd_refused_frames_total{code="malformed"} 1.0'


def test_entries_of_the_status_are_added() -> None:
    status = {"rows": {"closed": 0, "due": 4}, "samples": {"rejected": {}}}
    merge_status(status, [{"rows": {"closed": 2}, "samples": {"rejected": {"too_old": 1}}}, {"rows": {"closed": 3}}])
    assert status == {"rows": {"closed": 5, "due": 4}, "samples": {"rejected": {"too_old": 1}}}
