"""Tests `streamd/tools/scene/metrics.py`: sums over the series of a metric."""

from streamd.tools.scene.metrics import sum_metric

TEXT = """\
# HELP sent_total What was sent.
sent_total{path="/a b",code="200"} 3
sent_total{path="/c"} 4.5 1763708400000
sent_totals 9
plain_total 1e3
"""


def test_the_series_of_a_metric_are_summed() -> None:
    assert sum_metric(TEXT, "sent_total") == 7.5
    assert sum_metric(TEXT, "plain_total") == 1000
    assert sum_metric(TEXT, "nothing_total") == 0


def test_labels_select_series() -> None:
    assert sum_metric(TEXT, "sent_total", code="200") == 3
    assert sum_metric(TEXT, "sent_total", code="500") == 0
