"""Tests `Containerfile`: rules that hold without an engine, and hadolint's where it is installed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamd.server.config import load_config
from tests.support.document_tables import read

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def read_instructions(text: str) -> list[tuple[str, str]]:
    """Return each instruction with its arguments, continued lines joined and comments left out."""
    lines = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    joined = re.sub(r"\\\n\s*", " ", lines)
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def find_problems(text: str) -> list[str]:
    """Return what is wrong with a container file."""
    found = []
    instructions = read_instructions(text)
    images = [rest for name, rest in instructions if name == "ARG" and rest.startswith("PYTHON_IMAGE=")]
    if not all(re.search(r":\d+\.\d+|@sha256:", image) for image in images):
        found.append("the base image is not pinned")
    users = [rest for name, rest in instructions if name == "USER"]
    # By number, so that an orchestrator can see that it is not root without reading the image.
    if not users or not all(re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) for user in users):
        found.append("it runs as root")
    if [name for name, _ in instructions].count("HEALTHCHECK") != 1:
        found.append("there is no health check")
    if {"cpu", "gpu"} - {rest.rpartition(" AS ")[2] for name, rest in instructions if name == "FROM"}:
        found.append("a target is missing")
    found += [
        f"{rest}: is in a shell, so signals do not reach it"
        for name, rest in instructions
        if name in {"ENTRYPOINT", "CMD"} and not rest.startswith("[")
    ]
    found += [
        f"{rest}: installs what is not locked"
        for name, rest in instructions
        if name == "RUN"
        and "pip install" in rest
        and "TENSORRT" not in rest
        and "--require-hashes" not in rest
        and "--no-deps" not in rest
    ]
    return found


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("python:3.13-slim-bookworm", "python:latest"),
        ("USER 10001:10001", "USER root"),
        ("USER 10001:10001\n", ""),
        ("HEALTHCHECK", "LABEL"),
        ("AS gpu\n", "AS cuda\n"),
        ('ENTRYPOINT ["/opt/streamd/bin/streamd"]', "ENTRYPOINT /opt/streamd/bin/streamd"),
        ("--require-hashes ", ""),
    ],
)
def test_the_container_file_keeps_the_rules(old: str, new: str) -> None:
    text = read("Containerfile")
    assert old in text
    assert find_problems(text.replace(old, new))
    assert find_problems(text) == []


def test_its_variables_are_settings_and_need_tokens() -> None:
    (line,) = [rest for name, rest in read_instructions(read("Containerfile")) if name == "ENV" and "STREAMD_" in rest]
    environ = dict(re.findall(r"(\w+)=(\S+)", line))
    config = load_config(None, environ)
    assert config.server.host == "0.0.0.0"
    assert config.access.tokens_file
    assert not config.access.insecure
    assert f"127.0.0.1:{config.server.port}/healthz" in read("Containerfile")


def test_what_it_copies_is_there_or_built_and_not_ignored() -> None:
    ignored = read(".dockerignore")
    copies = [rest.split()[:-1] for name, rest in read_instructions(read("Containerfile")) if name == "COPY"]
    sources = [source for words in copies for source in words if not words[0].startswith("--from")]
    assert len(sources) == 3
    for source in sources:
        assert f"!{source}\n" in ignored
        assert source.startswith("dist/") or (ROOT / source).exists()


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_hadolint_finds_nothing() -> None:
    assert HADOLINT is not None
    ran = subprocess.run([HADOLINT, "Containerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
