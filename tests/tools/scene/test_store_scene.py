"""Tests `streamd/tools/scene/store_scene.py` and `stores.py` without a store: what is read, and what is shown."""

from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from streamd.tools.loadtest.terminal import Terminal
from streamd.tools.scene.processes import SceneProcess
from streamd.tools.scene.store_scene import StoreResult, format_store_scene
from streamd.tools.scene.stores import MetricStore, make_prometheus, make_victoria_metrics


def make_result(**changes: Any) -> StoreResult:
    values: dict[str, Any] = {"store": "A store", "version": "1.0", "compared": 7, "wrong": [], "wrong_values": 0}
    return StoreResult(**{**values, "sent_samples": 9, "requests": {"sent": 2}, **changes})


def test_values_that_a_store_lacks_are_shown() -> None:
    plain = Terminal(width=100, is_interactive=False, has_colour=False)
    whole = "\n".join(format_store_scene([make_result()], plain))
    assert "A store 1.0  7 of 7 values as the daemon has them" in whole
    assert "9 samples by remote write; requests: sent 2" in whole
    broken = format_store_scene([make_result(wrong=["server-001 curve: None, expected 1"], wrong_values=3)], plain)
    assert "4 of 7 values" in broken[0]
    assert broken[-1].strip() == "server-001 curve: None, expected 1"


async def test_a_query_gives_points_by_labels(tmp_path: Path) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path + "?" + request.query["query"])
        points = {"value": [5, "1.5"]} if request.path.endswith("query") else {"values": [[5, "1.5"], [6, "NaN"]]}
        return web.json_response({"data": {"result": [{"metric": {"b": "2", "a": "1"}, **points}]}})

    app = web.Application()
    app.router.add_get("/api/v1/{call}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        store = MetricStore(name="a", port=port, process=SceneProcess("a", ["true"], tmp_path))
        async with aiohttp.ClientSession() as session:
            assert await store.query(session, 'm{a="&"}', 5.0) == {(("a", "1"), ("b", "2")): [(5.0, 1.5)]}
            ((_, points),) = (await store.query_range(session, "m", begin=1, end=2, step=1)).items()
        assert [at for at, _ in points] == [5.0, 6.0]
        assert asked == ['/api/v1/query?m{a="&"}', "/api/v1/query_range?m"]
    finally:
        await runner.cleanup()


def test_stores_keep_their_data_in_the_folder_of_the_scene(tmp_path: Path) -> None:
    stores = [make_prometheus(Path("/"), tmp_path, ["127.0.0.1:1"]), make_victoria_metrics(Path("/"), tmp_path)]
    for store in stores:
        command = " ".join(store.process._command)
        assert str(tmp_path) in command
        assert f"127.0.0.1:{store.port}" in command
        assert store.write_url == f"http://127.0.0.1:{store.port}/api/v1/write"
    assert "'127.0.0.1:1'" in (tmp_path / "prometheus.yml").read_text(encoding="utf-8")
