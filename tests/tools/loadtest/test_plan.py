"""Tests `streamd/tools/loadtest/plan.py` and the frames that `wire.py` makes of a plan."""

from pathlib import Path

import msgspec
import pytest

from streamd.tools.fleets.fleet import RecordedFleet
from streamd.tools.fleets.readers import read_fleet
from streamd.tools.loadtest.options import EXAMPLE_FLEET
from streamd.tools.loadtest.plan import Pace, SendPlan
from streamd.tools.loadtest.wire import ClientEncoding, ClientForm, SampleEncoder

ROOT = Path(__file__).resolve().parents[3]
STEP = 300


@pytest.fixture(scope="module")
def sample() -> RecordedFleet:
    return read_fleet(ROOT / EXAMPLE_FLEET, STEP)


def make_plan(fleet: RecordedFleet, pace: Pace, **more: int) -> SendPlan:
    options = {"connections": 2, "fill_steps": 4, "step_seconds": STEP, **more}
    return SendPlan(fleet=fleet, selected=fleet.find_rows(), pace=pace, **options)


def test_a_plan_sends_every_row_once_and_each_server_in_order(sample: RecordedFleet) -> None:
    plan = make_plan(sample.take_steps(0, 10), Pace(), samples_a_frame=5, fill_samples_a_frame=7)
    seen: dict[int, list[int]] = {}
    for connection in range(plan.connections):
        for batch in [*plan.plan_history(connection), *plan.plan_stream(connection)]:
            for step, server in zip(batch.steps.tolist(), batch.servers.tolist(), strict=True):
                assert server % plan.connections == connection
                seen.setdefault(server, []).append(step)
    assert seen == {server: list(range(10)) for server in range(12)}
    assert plan.count_rows() == (48, 72)


@pytest.mark.parametrize(
    ("pace", "seconds"), [(Pace(rate=36.0), 2.0), (Pace(speed=900.0), 2.0), (Pace(speed=900.0, burst=True), 5 / 3)]
)
def test_the_last_row_is_due_at_the_end(sample: RecordedFleet, pace: Pace, seconds: float) -> None:
    plan = make_plan(sample.take_steps(0, 10), pace)
    due = [batch.due_seconds for connection in (0, 1) for batch in plan.plan_stream(connection)]
    assert max(due) == pytest.approx(seconds)
    assert due == sorted(due[:36]) + sorted(due[36:])


@pytest.mark.parametrize("pace", [Pace(rate=36.0), Pace(speed=900.0)])
def test_connections_take_turns(sample: RecordedFleet, pace: Pace) -> None:
    plan = make_plan(sample.take_steps(0, 10), pace, samples_a_frame=3)
    first, second = ([batch.due_seconds for batch in plan.plan_stream(connection)] for connection in (0, 1))
    assert len(first) == len(second) == 12
    # 36 rows a second: a connection has a frame every 1/6 s, and the other connection's is in the middle.
    assert second == pytest.approx([number / 6 for number in range(1, 13)])
    assert first == pytest.approx([(number - 0.5) / 6 for number in range(1, 13)])


@pytest.mark.parametrize("encoding", list(ClientEncoding))
@pytest.mark.parametrize("form", list(ClientForm))
def test_the_samples_of_a_split_row_have_all_of_its_values(
    tmp_path: Path, encoding: ClientEncoding, form: ClientForm
) -> None:
    path = tmp_path / "f.csv"
    path.write_text("server,time,cpu_user,mem_used\na,600,1,5\nb,600,2,\na,1200,3,7\n")
    fleet = read_fleet(path, STEP)
    plan = make_plan(fleet, Pace(), connections=1, fill_steps=0, parts=2, samples_a_frame=2)
    encoder = SampleEncoder(fleet=fleet, step_seconds=STEP, form=form, encoding=encoding)
    decode = msgspec.json.decode if encoding is ClientEncoding.JSON else msgspec.msgpack.decode
    values: set[str] = set()
    for number, batch in enumerate(plan.plan_stream(0)):
        frame = decode(encoder.encode_batch(batch, number))
        assert frame["id"] == number
        if form is ClientForm.SAMPLES:
            values |= {f"{one['server']} {one['time']} {name}" for one in frame["samples"] for name in one["values"]}
        else:
            columns = frame["columns"]
            assert columns["time"] in (600, 1200)
            values |= {f"{server} {columns['time']} {columns['features'][0]}" for server in columns["servers"]}
    expected = {"a 600 cpu_user", "b 600 cpu_user", "a 600 mem_used", "a 1200 cpu_user", "a 1200 mem_used"}
    missing = {"b 600 mem_used"}  # In columns it is NaN or null, which means missing too.
    assert values - missing == expected
