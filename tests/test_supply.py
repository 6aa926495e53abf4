"""Tests `scripts/supply.py`: each locked package of the daemon has its licence listed, and a bill of materials."""

import email.message
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

import pytest

from tests.support.document_tables import read, read_table

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def supply() -> ModuleType:
    spec = importlib.util.spec_from_file_location("supply", ROOT / "scripts" / "supply.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["supply"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_list_of_licences_is_that_of_the_lock(supply: ModuleType) -> None:
    components = supply.list_components()
    shown = supply.format_licences(components, supply.list_page_components())
    assert read("licenses/dependencies.md") == shown, "run make sbom"
    rows = {row["package"]: row for row in read_table(read("licenses/dependencies.md"), "package", "version")}
    assert {"aiohttp", "numpy", "onnxruntime", "opentelemetry-sdk", "pyarrow"} <= set(rows)
    assert "pytest" not in rows
    lock = read("requirements.lock")
    assert all(f"\n{name}=={row['version']} " in f"\n{lock}" for name, row in rows.items())
    assert all(row["licence"] for row in rows.values())


def test_licences_leave_no_duty_beyond_a_notice(supply: ModuleType) -> None:
    """A licence that is not here needs a decision, not only an entry."""
    permitted = {"Apache-2.0", "MIT", "BSD-3-Clause", "BSD-2-Clause", "0BSD", "PSF-2.0", "MPL-2.0", "Zlib", "CC0-1.0"}
    for each in (*supply.list_components(), *supply.list_page_components()):
        assert set(re.findall(r"[A-Za-z0-9.+-]+", each.licence)) - {"AND", "OR"} <= permitted, each.name


def test_the_bill_has_every_package_with_its_hashes_and_no_date(supply: ModuleType, tmp_path: Path) -> None:
    components = [*supply.list_components(), *supply.list_page_components()]
    bills = [tmp_path / name for name in ("first.json", "second.json")]
    for path in bills:
        path.write_text(json.dumps(supply.make_bill(components, "0.1.0")), encoding="utf-8")
    assert bills[0].read_bytes() == bills[1].read_bytes()
    bill: dict[str, Any] = json.loads(bills[0].read_bytes())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert "timestamp" not in bill["metadata"]
    references = {each["bom-ref"] for each in bill["components"]}
    assert len(references) == len(bill["components"]) == len(components)
    lengths = {"SHA-256": 64, "SHA-512": 128}
    for each in bill["components"]:
        assert each["purl"].endswith(f"/{quote(each['name'])}@{each['version']}")
        hashes = [hash_ for file in each["externalReferences"] for hash_ in file["hashes"]]
        assert all(len(hash_["content"]) == lengths[hash_["alg"]] for hash_ in hashes)
        assert each["externalReferences"]
    known = references | {bill["metadata"]["component"]["bom-ref"]}
    for each in bill["dependencies"]:
        assert {each["ref"], *each["dependsOn"]} <= known


def test_a_licence_that_is_not_known_is_an_error_that_names_the_package(supply: ModuleType) -> None:
    metadata = email.message.Message()
    metadata["Name"] = "left-pad"
    metadata["License"] = "do what you want, but not on Sundays"
    with pytest.raises(supply.SupplyError, match="left-pad"):
        supply.read_licence(metadata)
    metadata = email.message.Message()
    metadata["License-Expression"] = "MIT OR Apache-2.0"
    assert supply.read_licence(metadata) == "MIT OR Apache-2.0"


def test_the_bill_names_what_is_in_the_page_as_packages_of_npm(supply: ModuleType) -> None:
    bill = supply.make_bill([*supply.list_components(), *supply.list_page_components()], "0.1.0")
    found = {each["name"]: each for each in bill["components"] if each["purl"].startswith("pkg:npm/")}
    assert {"preact", "uplot", "@preact/signals"} <= set(found)
    assert found["@preact/signals"]["purl"].startswith("pkg:npm/%40preact/signals@")
    assert all(each["scope"] == "required" for each in found.values())
    (needs,) = [each["dependsOn"] for each in bill["dependencies"] if "/signals@" in each["ref"]]
    assert needs == [found["@preact/signals-core"]["purl"]]


def test_the_lock_of_the_daemon_alone_has_no_tools_and_no_extras(supply: ModuleType) -> None:
    whole = read("requirements.lock")
    alone = supply.read_lock(supply.select_lock(whole, supply.list_components()))
    assert alone == {
        each.name: supply.read_lock(whole)[each.name]
        for each in supply.list_components()
        if each.needed_by == "streamd"
    }
    assert "numpy" in alone
    assert not {"pytest", "pyarrow", "opentelemetry-sdk"} & set(alone)


def test_a_package_that_is_not_locked_is_an_error(supply: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(read("pyproject.toml"), encoding="utf-8")
    (tmp_path / "requirements.lock").write_text(read("requirements.lock").replace("\naiohttp==", "\nsomething=="))
    with pytest.raises(supply.SupplyError, match=r"aiohttp: .* make lock"):
        supply.list_components(tmp_path)
