"""Tests `streamd/server/version_control/catalog.py`: the list of versions, sound or not, for readers."""

import asyncio
import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from streamd.core.errors import RepositoryError
from streamd.repository import versions
from streamd.repository.promotion import Promoter
from streamd.repository.versions import EngineRepository, EngineVersion, GraphCheck
from streamd.server.version_control.catalog import CatalogReader, describe_catalog
from tests.support.made_versions import CONTRACT, MANIFEST, digest, make, pin, tell
from tests.support.served_versions import CALENDAR, WINDOW
from tests.support.version_calls import StartDaemon, list_versions, promote, roll_back, start_ready

SERVED = replace(CONTRACT, units=MANIFEST["units"])
NEW, OLD, BROKEN = "b_20260103_000000", "a_20260102_000000", "c_20260101_000000"


def list_of(root: Path, reader: CatalogReader | None = None, **more: Any) -> dict[str, Any]:
    """Return the list of a repository whose version `NEW` serves."""
    catalog = asyncio.run((reader or CatalogReader()).read(root, 10.0))
    settings = {"serving": NEW, "candidate": None, "contract": SERVED, "is_pinned": False, **more}
    return describe_catalog(catalog, **settings)


def find(listed: dict[str, Any], name: str) -> dict[str, Any]:
    (entry,) = [each for each in listed["versions"] if each["version"] == name]
    return dict(entry)


def test_a_version_is_listed_with_its_training_and_its_gate(tmp_path: Path) -> None:
    path = make(tmp_path, NEW, default=True)
    figures = {"smd": {"nPL": 0.1}, "asd": {"nPL": 0.3}}
    (path / "training_info.json").write_text(json.dumps({"data": {"smd": {}, "asd": {}}, "figures": figures}))
    tell(
        path,
        graphs={"fp16": {"file": "model_fp16.onnx"}},
        validation={"fp32": {"promotable": True}, "fp16": {"promotable": False, "reasons": ["it moves too far"]}},
    )
    entry = find(list_of(tmp_path), NEW)
    assert entry["created_at"] == 1_767_398_400.0
    assert (entry["architecture"], entry["precisions"]) == ("fake", ["fp32", "fp16"])
    assert (entry["training_loss"], entry["training_fleets"]) == (0.2, ["smd", "asd"])
    assert entry["gate"]["fp16"] == {"promotable": False, "reasons": ["it moves too far"]}
    assert (entry["is_promoted"], entry["is_default"], entry["problem"]) == (False, True, None)
    assert entry["size_bytes"] == sum(file.stat().st_size for file in path.iterdir())


def test_a_version_that_cannot_be_promoted_says_why_and_hides_no_other(tmp_path: Path) -> None:
    make(tmp_path, NEW)
    path = make(tmp_path, OLD)
    pin(path, {"model.onnx": digest(path / "model.onnx")})
    (path / "model.onnx").write_bytes(b"damaged")
    make(tmp_path, BROKEN, step_seconds=300)
    tell(make(tmp_path, "d_20260101_000000"), validation={"fp32": {"promotable": False, "reasons": ["nPL is 2"]}})
    (tmp_path / "no_version").mkdir()
    listed = list_of(tmp_path)
    assert [each["version"] for each in listed["versions"]] == [NEW, OLD, "d_20260101_000000", BROKEN]
    assert find(listed, NEW)["problem"] is None
    assert "changed since it was made" in find(listed, OLD)["problem"]
    assert find(listed, OLD)["size_bytes"] > 0
    assert "step_seconds differ" in find(listed, BROKEN)["problem"]
    assert "nPL is 2" in find(listed, "d_20260101_000000")["problem"]


def test_nothing_is_read_of_what_a_link_leads_to(tmp_path: Path) -> None:
    root, link = tmp_path / "engines", "c_20260104_000000"
    make(root, NEW)
    (root / link).symlink_to(make(tmp_path / "elsewhere", OLD))
    entry = find(list_of(root), link)
    assert (entry["size_bytes"], entry["architecture"]) == (0, None)
    assert "a link; put the version's folder itself there" in entry["problem"]


def test_the_history_and_the_target_of_a_rollback_are_listed(tmp_path: Path) -> None:
    for name in (NEW, OLD, BROKEN):
        make(tmp_path, name)
    promoter = Promoter(EngineRepository(tmp_path))
    assert list_of(tmp_path)["previous"] is None, "nothing is promoted"
    promoter.promote(BROKEN, "ann", "a trial", 5.0)
    assert list_of(tmp_path)["previous"] == NEW, "the newest serves if none is promoted"
    promoter.promote(OLD, "ben", "", 6.0)
    listed = list_of(tmp_path)
    assert listed["previous"] == BROKEN == promoter.find_rollback_target()[0]
    assert find(listed, OLD)["is_promoted"]
    assert listed["history"][0] == {
        "kind": "promote",
        "when": 6.0,
        "who": "ben",
        "why": "",
        "before": BROKEN,
        "after": OLD,
        "passed_over": [],
    }
    # A version to which it could not return is passed over.
    (tmp_path / BROKEN / "config.json").write_text("{")
    assert list_of(tmp_path)["previous"] == NEW == promoter.find_rollback_target()[0]


@pytest.mark.parametrize("name", ["", "missing"])
def test_what_cannot_be_read_is_a_problem_of_the_list(tmp_path: Path, name: str) -> None:
    make(tmp_path, NEW)
    (tmp_path / "promoted.json").write_text("{")
    listed = list_of(tmp_path / name)
    assert str(tmp_path / name) in listed["problem"]
    assert (listed["history"], listed["previous"], len(listed["versions"])) == ([], None, 0 if name else 1)


def test_files_are_read_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = versions.load_version

    def note(path: Path, check: GraphCheck) -> EngineVersion:
        read.append(path.name)
        return load(path, check)

    monkeypatch.setattr(versions, "load_version", note)
    for name in (NEW, OLD):
        make(tmp_path, name)
    reader = CatalogReader()
    assert list_of(tmp_path, reader) == list_of(tmp_path, reader)
    assert sorted(read) == [OLD, NEW]
    (tmp_path / OLD / "config.json").write_text("{")
    assert find(list_of(tmp_path, reader), OLD)["problem"] is not None
    assert sorted(read) == [OLD, OLD, NEW]


async def test_a_file_system_that_hangs_keeps_one_thread_for_all_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, NEW)
    release, threads = threading.Event(), list[int]()
    reader = CatalogReader()
    read_now = reader._read_now

    def hang(root: Path) -> Any:
        threads.append(threading.get_ident())
        release.wait(30)
        return read_now(root)

    monkeypatch.setattr(reader, "_read_now", hang)
    for _ in range(3):
        with pytest.raises(RepositoryError, match="file system may hang"):
            await reader.read(tmp_path, 0.01)
    waiting = asyncio.create_task(reader.read(tmp_path, 30.0))
    await asyncio.sleep(0)
    release.set()
    assert [each.name for each in (await waiting).entries] == [NEW]
    assert len(threads) == 1


def test_a_daemon_lists_what_serves_and_what_was_promoted(start: StartDaemon, tmp_path: Path, engines: Path) -> None:
    daemon = start_ready(start, tmp_path)
    listed = list_versions(daemon)
    assert (listed["serving"], listed["previous"], listed["pinned"]) == (WINDOW, None, False)
    assert [each["version"] for each in listed["versions"]] == [WINDOW, CALENDAR]
    promote(daemon, CALENDAR, who="ann", why="a trial")
    listed = list_versions(daemon)
    assert (listed["serving"], listed["previous"]) == (CALENDAR, WINDOW)
    assert [each["version"] for each in listed["versions"] if each["is_promoted"]] == [CALENDAR]
    roll_back(daemon, who="ben")
    assert [(each["kind"], each["who"]) for each in list_versions(daemon)["history"]] == [
        ("rollback", "ben"),
        ("promote", "ann"),
    ]
