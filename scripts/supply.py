#!/usr/bin/env python3
"""List what the daemon is made of: the licences of its dependencies, and a bill of materials in CycloneDX.

Reads the installed packages, `requirements.lock`, and what the built page says of the packages in it; uses no network.
The same lock gives the same bytes, so neither file has a date or a random serial number. `make sbom` runs it.
"""

import argparse
import base64
import importlib.metadata
import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LICENCES = ROOT / "licenses" / "dependencies.md"
PAGE_BUILD = Path("streamd/web/assets/BUILD.json")
"""What the built page says of the packages in it; the build writes it."""

EXTRAS = ("replay", "tracing", "cluster")
"""The extras whose packages are locked; those of `tensorrt`, `build` and `train` are chosen for a machine."""

PAGE = "page"
"""What needs the packages of npm, parts of which are in the wheel."""

OLDEST_PYTHON = {"python_version": "3.11", "python_full_version": "3.11.0"}
"""The Python that the lock is made for; a newer one needs no package more, so the lists are the same on each."""

SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
"""The licence expressions of what packages wrote before there was a field for expressions."""


class SupplyError(Exception):
    """A package that is not installed, not locked, or states no licence that is known here."""


@dataclass(frozen=True, kw_only=True)
class Component:
    """One locked package that the daemon needs."""

    name: str
    version: str
    licence: str
    needed_by: str
    """`streamd`, or the extra that needs it; `page` if the page has a part of it."""
    hashes: tuple[str, ...]
    """Of its files, from the lock: SHA-256, or SHA-512 of a package of the page."""
    requires: tuple[str, ...]

    @property
    def purl(self) -> str:
        """The name of the package in all registries."""
        return f"pkg:{'npm' if self.needed_by == PAGE else 'pypi'}/{quote(self.name)}@{self.version}"


def read_lock(text: str) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return version and hashes by package."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        match = re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==(\S+)", block)
        if match:
            hashes = tuple(sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", block)))
            found[canonicalize_name(match[1])] = (match[2], hashes)
    return found


def read_licence(metadata: "importlib.metadata.PackageMetadata") -> str:
    """Return the licence expression of a package; raises `SupplyError` if it states none that is known here."""
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classifiers = [each.rpartition(" :: ")[2] for each in metadata.get_all("Classifier") or () if each[:7] == "License"]
    stated = classifiers or [metadata["License"].partition("\n")[0] if "License" in metadata else ""]
    try:
        return " OR ".join(sorted({SPDX[each] if each in SPDX else _check_expression(each) for each in stated}))
    except KeyError as error:
        raise SupplyError(f"{metadata['Name']}: its licence {error} is not in SPDX of scripts/supply.py") from error


def _check_expression(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9.+-]+( (AND|OR) [A-Za-z0-9.+-]+)*", text):
        raise KeyError(text)
    return text


def list_components(root: Path = ROOT) -> list[Component]:
    """Return the locked packages that `streamd` and its locked extras need, by name."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lock = read_lock((root / "requirements.lock").read_text(encoding="utf-8"))
    found: dict[str, Component] = {}
    for reason in ("streamd", *EXTRAS):
        wanted = project["dependencies"] if reason == "streamd" else project["optional-dependencies"][reason]
        todo: list[str] = sorted(canonicalize_name(name) for name in _names_of(wanted))
        while todo:
            name = todo.pop()
            if name not in found:
                found[name] = _make_component(name, lock, reason)
                todo += found[name].requires
    return [found[name] for name in sorted(found)]


def list_page_components(root: Path = ROOT) -> list[Component]:
    """Return the packages of npm that the built page contains, by name."""
    built = json.loads((root / PAGE_BUILD).read_text(encoding="utf-8"))
    return [
        Component(
            name=each["name"],
            version=each["version"],
            licence=_check_expression(each["licence"]),
            needed_by=PAGE,
            hashes=(base64.b64decode(each["integrity"].removeprefix("sha512-")).hex(),),
            requires=tuple(each["requires"]),
        )
        for each in built["packages"]
    ]


def _make_component(name: str, lock: dict[str, tuple[str, tuple[str, ...]]], reason: str) -> Component:
    if name not in lock:
        raise SupplyError(f"{name}: is needed by {reason}, but not in requirements.lock; run make lock")
    version, hashes = lock[name]
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        raise SupplyError(f"{name}: is not installed; run make install") from error
    return Component(
        name=name,
        version=version,
        licence=read_licence(distribution.metadata),
        needed_by=reason,
        hashes=hashes,
        requires=tuple(sorted(canonicalize_name(each) for each in _names_of(distribution.requires or ()))),
    )


def _names_of(requirements: Any) -> set[str]:
    """Return the packages that are needed on `OLDEST_PYTHON`, without those of extras."""
    parsed = map(Requirement, requirements)
    return {each.name for each in parsed if each.marker is None or each.marker.evaluate({"extra": "", **OLDEST_PYTHON})}


def format_licences(components: list[Component], page: list[Component]) -> str:
    """Return the document that lists the licences, also of the packages in the page."""
    rows = [f"| {each.name} | {each.version} | {each.licence} | {each.needed_by} |" for each in components]
    page_rows = [f"| {each.name} | {each.version} | {each.licence} |" for each in page]
    return "\n".join(
        [
            "# Licences of the dependencies",
            "",
            "What `requirements.lock` installs for the daemon and for the extras `replay` and `tracing`, with the",
            "licence that each package states. Packages are installed from the registry, not copied into this",
            "repository or its wheel. The extras `tensorrt`, `build` and `train` are chosen for a machine and not",
            "locked: TensorRT and CUDA are proprietary software of NVIDIA under its own terms.",
            "",
            "Written by `make sbom`.",
            "",
            "| package | version | licence | needed by |",
            "|---|---|---|---|",
            *rows,
            "",
            "## In the page",
            "",
            "Parts of these packages of npm are in the built page, so in this repository and its wheel, together with",
            "the texts of their licences: `streamd/web/assets/assets/licenses.txt`, which the daemon serves too.",
            "",
            "| npm package | version | licence |",
            "|---|---|---|",
            *page_rows,
            "",
        ]
    )


def make_bill(components: list[Component], version: str) -> dict[str, Any]:
    """Return the bill of materials: CycloneDX 1.5."""
    root = f"pkg:pypi/streamd@{version}"
    purls = {each.name: each.purl for each in components}
    direct = sorted({each.name for each in components} - {name for each in components for name in each.requires})
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": root,
                "name": "streamd",
                "version": version,
                "purl": root,
                "licenses": [{"license": {"id": "MIT"}}],
            }
        },
        "components": [_describe(each) for each in components],
        "dependencies": [
            {"ref": root, "dependsOn": [purls[name] for name in direct]},
            *({"ref": purls[each.name], "dependsOn": [purls[name] for name in each.requires]} for each in components),
        ],
    }


def _describe(component: Component) -> dict[str, Any]:
    # A package has a file for each platform; the lock has the hashes of all, and one of them is what was installed.
    purl, algorithm = component.purl, "SHA-512" if component.needed_by == PAGE else "SHA-256"
    files = [
        {"type": "distribution", "url": purl, "hashes": [{"alg": algorithm, "content": content}]}
        for content in component.hashes
    ]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": component.name,
        "version": component.version,
        "scope": "required" if component.needed_by in ("streamd", PAGE) else "optional",
        "purl": purl,
        "licenses": [{"expression": component.licence}],
        "externalReferences": files,
    }


def select_lock(text: str, components: list[Component]) -> str:
    """Return the part of the lock that the daemon alone needs, without development tools and extras."""
    needed = {each.name for each in components if each.needed_by == "streamd"}
    blocks = re.split(r"\n(?=[A-Za-z0-9])", text.rstrip("\n"))
    kept = [block for block in blocks if canonicalize_name(re.split(r"==|\[", block)[0]) in needed]
    return "\n".join(kept) + "\n"


def main() -> int:
    """Write the files; returns 1 with `--check` if the list of licences is out of date."""
    parser = argparse.ArgumentParser(description="Write the list of licences, and a bill of materials.")
    parser.add_argument(
        "--bill", type=Path, metavar="FILE", help="file of the bill of materials [default: not written]"
    )
    parser.add_argument("--lock", type=Path, metavar="FILE", help="lock of the daemon alone [default: not written]")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the list of licences is outdated")
    args = parser.parse_args()
    try:
        components, page = list_components(), list_page_components()
    except SupplyError as error:
        print(f"supply: {error}", file=sys.stderr)
        return 1
    licences = format_licences(components, page)
    if args.check:
        return int(LICENCES.read_text(encoding="utf-8") != licences)
    LICENCES.write_text(licences, encoding="utf-8")
    if args.lock is not None:
        args.lock.parent.mkdir(parents=True, exist_ok=True)
        lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
        args.lock.write_text(select_lock(lock, components), encoding="utf-8")
    if args.bill is not None:
        bill = make_bill([*components, *page], importlib.metadata.version("streamd"))
        args.bill.parent.mkdir(parents=True, exist_ok=True)
        args.bill.write_text(json.dumps(bill, indent=2) + "\n", encoding="utf-8")
        print(f"{args.bill}: {len(components) + len(page)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
