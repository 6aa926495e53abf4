"""Tests `streamd/cluster/nats/settings.py`: what is missing is named before anything is connected."""

import builtins
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from streamd.cluster.nats.log import NatsLog
from streamd.cluster.nats.settings import NatsSettings
from streamd.core.errors import ConfigError


def test_a_file_that_is_missing_is_named() -> None:
    for settings in (
        NatsSettings(urls=("nats://a",), tls_ca="/nowhere.pem"),
        NatsSettings(urls=("tls://a",), tls_certificate="/nowhere.pem", tls_key="/nowhere.key"),
    ):
        with pytest.raises(ConfigError, match=r"\[cluster\] nats_c.*file: /nowhere.pem: cannot be used"):
            NatsLog(settings)


def test_credentials_that_are_missing_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = NatsSettings(urls=("nats://a",), credentials="/nowhere.creds")
    monkeypatch.setitem(sys.modules, "nkeys", ModuleType("nkeys"))
    with pytest.raises(ConfigError, match=r"nats_credentials_file: /nowhere.creds: cannot be read: No such file"):
        NatsLog(settings)
    path = tmp_path / "half.creds"
    path.write_text("-----BEGIN NATS USER JWT-----")
    with pytest.raises(ConfigError, match=r"half.creds: has no part 'BEGIN USER NKEY SEED'"):
        NatsLog(replace(settings, credentials=str(path)))
    monkeypatch.setitem(sys.modules, "nkeys", None)
    with pytest.raises(ConfigError, match="needs the package nkeys"):
        NatsLog(settings)


def test_the_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "nats" or name.startswith("nats.")]:
        monkeypatch.delitem(sys.modules, name)
    real = builtins.__import__

    def refuse(name: str, *args: object, **options: object) -> object:
        if name.startswith("nats"):
            raise ImportError(name)
        return real(name, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(ConfigError, match=r"nats-py, expected streamd\[cluster\]"):
        NatsLog(NatsSettings(urls=("nats://a",)))
