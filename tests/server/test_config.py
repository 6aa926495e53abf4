"""Tests `streamd/server/config.py`: which source of a setting wins, and errors that name the setting and its place."""

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.cli import main
from streamd.core.errors import ConfigError
from streamd.server.config import SECTIONS, Config, find_restart_sections, load_config, read_admin_token
from tests.support.daemon_process import ROOT, run_command

SHIPPED = ROOT / "config.toml"


def write_settings(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


# ---------------------------------------------------------------- where settings come from
def test_the_shipped_file_states_every_setting_with_its_default() -> None:
    stated = tomllib.loads(SHIPPED.read_text(encoding="utf-8"))
    assert {key: section for section, keys in stated.items() for key in keys} == SECTIONS
    shipped, built_in = load_config(SHIPPED, {}), load_config(None, {})
    assert Path(shipped.state.state_dir) == ROOT / built_in.state.state_dir
    assert Path(shipped.engine.engines) == ROOT / built_in.engine.engines
    # The folders of the file are relative to it; all other settings are the same.
    same_state = msgspec.structs.replace(shipped.state, state_dir=built_in.state.state_dir)
    same_engine = msgspec.structs.replace(shipped.engine, engines=built_in.engine.engines)
    assert msgspec.structs.replace(shipped, state=same_state, engine=same_engine) == built_in


def test_every_setting_of_the_shipped_file_is_explained() -> None:
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    settings = [line for line in lines if "=" in line.partition("#")[0]]
    assert len(settings) == len(SECTIONS)
    assert all("#" in line for line in settings)


def test_a_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = write_settings(tmp_path, '[server]\nport = 1\nhost = "file"\n[engine]\nengine = "file"\nlanes = 3\n')
    config = load_config(path, {"STREAMD_PORT": "2", "STREAMD_HOST": "environment"}, {"port": 3, "backend": None})
    assert (config.server.port, config.server.host) == (3, "environment")
    assert (config.engine.engine, config.engine.lanes, config.engine.backend) == ("file", 3, "auto")
    assert config.server.max_sockets == Config().server.max_sockets


def test_folders_in_the_file_are_relative_to_it_and_in_variables_are_not(tmp_path: Path) -> None:
    path = write_settings(tmp_path, '[state]\nstate_dir = "s"\n[engine]\nengines = "/e"\n')
    config = load_config(path, {})
    assert (Path(config.state.state_dir), config.engine.engines) == (tmp_path / "s", "/e")
    assert load_config(path, {"STREAMD_STATE_DIR": "t"}).state.state_dir == "t"


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("STREAMD_PORT", "8003", 8003),
        ("STREAMD_DRAIN_SECONDS", "1.5", 1.5),
        ("STREAMD_BUCKETS", "1,4,16", (1, 4, 16)),
        ("STREAMD_BACKEND", "onnxruntime-cpu", "onnxruntime-cpu"),
        ("STREAMD_DEVICES", "0,2", (0, 2)),
        ("STREAMD_PRECISION", "int8", "int8"),
        ("STREAMD_CUDA_GRAPHS", "false", False),
        ("STREAMD_LANE_WAIT", "spin", "spin"),
        ("STREAMD_LOG_LEVEL", "debug", "debug"),
        ("STREAMD_ENGINE", "", ""),
        ("STREAMD_HOST", "123", "123"),
    ],
)
def test_a_variable_sets_the_setting_of_its_name(variable: str, text: str, value: Any) -> None:
    key = variable.removeprefix("STREAMD_").lower()
    assert getattr(getattr(load_config(None, {variable: text, "PATH": "x"}), SECTIONS[key]), key) == value


def test_a_reload_applies_alert_rules_and_no_other_setting_of_alerts(tmp_path: Path) -> None:
    rule = '[alerts.rules.r]\ntarget = "cpu"\nabove = 1.0\n'
    before = load_config(write_settings(tmp_path, "[alerts]\nsilent_after_seconds = 60.0\n"), {})
    with_rule = load_config(write_settings(tmp_path, f"[alerts]\nsilent_after_seconds = 60.0\n{rule}"), {})
    assert find_restart_sections(with_rule, before) == []
    assert find_restart_sections(load_config(write_settings(tmp_path, rule), {}), before) == ["alerts"]


def test_replays_of_the_past_need_no_limit_of_age() -> None:
    assert load_config(None, {"STREAMD_MAX_FORECAST_AGE_SECONDS": "inf"}).alerts.max_forecast_age_seconds == float(
        "inf"
    )


# ---------------------------------------------------------------- errors name the thing and the place
@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[server]\nprot = 1\n", ["prot", "server"]),
        ("[sever]\nport = 1\n", ["sever"]),
        ("port = 1\n", ["port"]),
        ('[server]\nport = "8002"\n', ["int", "str", "server.port"]),
        ("[server]\nport = 8002.5\n", ["int", "server.port"]),
        ("[server]\nport = true\n", ["int", "server.port"]),
        ("[server]\nport = 65536\n", ["65535", "server.port"]),
        ("[server]\nport = -1\n", ["0", "server.port"]),
        ("[server]\nhost = 5\n", ["str", "server.host"]),
        ("[server]\ndrain_seconds = 0\n", ["server.drain_seconds"]),
        ("[state]\nmax_servers = 0\n", ["state.max_servers"]),
        ('[engine]\nbackend = "gpu"\n', ["gpu", "engine.backend"]),
        ("[engine]\nbuckets = [1, 0]\n", ["engine.buckets"]),
        ("[engine]\nbuckets = 8\n", ["engine.buckets"]),
        ("[engine]\ndevices = []\n", ["engine.devices"]),
        ("[engine]\ndevices = [0, -1]\n", ["engine.devices"]),
        ("[engine]\ndevices = [1, 0, 1]\n", ["[1, 0, 1]", "expected each once", "engine"]),
        ('[engine]\nprecision = "fp64"\n', ["fp64", "engine.precision"]),
        ("[engine]\ncuda_graphs = 1\n", ["bool", "engine.cuda_graphs"]),
        ('[engine]\nlane_wait = "yield"\n', ["yield", "engine.lane_wait"]),
        ("[engine]\nresident_windows = 1\n", ["bool", "engine.resident_windows"]),
        ("[alerts]\nsilent_after_seconds = 0\n", ["alerts.silent_after_seconds"]),
        ("[alerts]\nrules = 5\n", ["alerts.rules"]),
        ("[alerts]\ndisk = 5\n", ["disk", "alerts"]),
        ('[alerts.rules.r]\ntarget = "cpu"\n', ["alerts.rules.r", "neither above nor below"]),
        ('[alerts.rules.r]\ntarget = "cpu"\nabove = "9"\n', ["alerts.rules.r", "float", "above"]),
        ('[remote_write]\nremote_write_url = "http://[::1"\n', ["remote_write_url is no URL", "remote_write"]),
        ('[tracing]\notlp_endpoint = "http://host:4318x"\n', ["otlp_endpoint is no URL", "tracing"]),
        ('[log]\nlog_level = "loud"\n', ["loud", "log.log_level"]),
        ('[cluster]\nnats = "http://a:4222"\n', ["'http://a:4222'", "nats://host:4222", "cluster"]),
        ('[cluster]\nnats = "nats://u:hidden@a:4222,b"\n', ["nats has 'b'"]),
        ('[cluster]\nnode = "a.b"\n', ["cluster.node"]),
        ('[cluster]\ncluster_name = ""\n', ["cluster.cluster_name"]),
        ('[cluster]\ncluster_name = "forecast"\n', ["cluster_name is 'forecast'", "cluster"]),
        ("[cluster]\nreplicas = 2\n", ["replicas is 2, expected 1, 3 or 5"]),
        ("[cluster]\nshards = 0\n", ["cluster.shards"]),
        ("[cluster]\nlease_seconds = 0.5\n", ["cluster.lease_seconds"]),
        ("server = 5\n", ["server"]),
        ("[server\nport = 1\n", ["line 1"]),
        ("[server]\nport = \n", ["line 2"]),
        ("[server]\nport = 1\nport = 2\n", ["line 3"]),
    ],
)
def test_a_bad_file_is_named_with_its_setting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, named: list[str]
) -> None:
    path = write_settings(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    for part in [str(path), *named]:
        assert part in str(caught.value)
    # 2. The command line shows only that, and the status is that of a usage error.
    assert main(["serve", "--config", str(path)]) == 2
    shown = capsys.readouterr().err
    assert shown == f"streamd: {caught.value}\n"


def test_a_store_of_metrics_gets_either_a_token_or_a_user_name(tmp_path: Path) -> None:
    text = '[forecast_metrics]\nforecast_servers = ["*"]\n[remote_write]\nremote_write_url = "http://u:secret@host"\n'
    path = write_settings(tmp_path, text)
    with pytest.raises(ConfigError, match="remote_write_token_file: is given, and the URL has a user name") as caught:
        load_config(path, {"STREAMD_REMOTE_WRITE_TOKEN_FILE": "token"})
    assert "secret" not in str(caught.value)


def test_the_urls_of_nats_come_from_each_source_and_are_never_shown(tmp_path: Path) -> None:
    path = write_settings(tmp_path, '[cluster]\nnats = "nats://a"\nnats_ca_file = "ca.pem"\n')
    assert load_config(path, {}).cluster.urls == ("nats://a",)
    config = load_config(path, {"STREAMD_NATS": "nats://u:hidden@b:4222, tls://c:1"}, {"nats": None}).cluster
    assert config.urls == ("nats://u:hidden@b:4222", "tls://c:1")
    assert config.nats_ca_file == str(tmp_path / "ca.pem")
    assert "hidden" not in repr(config)
    assert load_config(None, {}).cluster.urls == ()


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[cluster]\nnats = "nats://a"\n[server]\nworkers = 2\n', r"\[server\] workers: is 2, expected 1, since"),
        ('[cluster]\nnats_key_file = "k"\n', r"\[cluster\] nats_certificate_file: is empty"),
        ('[cluster]\nnats_certificate_file = "c"\n', r"\[cluster\] nats_key_file: is empty"),
    ],
)
def test_settings_of_a_cluster_that_do_not_fit_are_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(write_settings(tmp_path, text), {})


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe[server]")
    with pytest.raises(ConfigError, match=r"config\.toml"):
        load_config(path, {})


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["serve", "--config", str(tmp_path / name)]) == 2
    shown = capsys.readouterr().err
    assert str(tmp_path / name) in shown
    assert "cannot be read" in shown


@pytest.mark.parametrize(
    ("variable", "text", "named"),
    [
        ("STREAMD_PROT", "1", []),
        ("STREAMD_", "1", []),
        ("STREAMD_SERVER_PORT", "1", []),
        ("STREAMD_PORT", "many", ["int"]),
        ("STREAMD_PORT", "", ["int"]),
        ("STREAMD_PORT", "70000", ["65535"]),
        ("STREAMD_BUCKETS", "1,x", ["int"]),
        ("STREAMD_BUCKETS", "", ["int"]),
        ("STREAMD_BACKEND", "gpu", ["gpu"]),
        ("STREAMD_DEVICES", "0,0", ["each once"]),
        ("STREAMD_DEVICES", "", ["int"]),
        ("STREAMD_DRAIN_SECONDS", "-1", []),
    ],
)
def test_a_bad_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], variable: str, text: str, named: list[str]
) -> None:
    monkeypatch.setenv(variable, text)
    assert main(["serve"]) == 2
    shown = capsys.readouterr().err
    for part in [variable, *named]:
        assert part in shown


def test_a_bad_flag_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "70000"]) == 2
    assert "port" in capsys.readouterr().err
    for arguments in (["serve", "--port", "x"], ["serve", "--backend", "gpu"], ["serve", "--nothing"], []):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_a_bad_setting_ends_the_process_with_2(tmp_path: Path) -> None:
    ended = run_command("serve", cwd=tmp_path, STREAMD_PORT="many")
    assert ended.returncode == 2
    assert "STREAMD_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


@given(port=st.integers(), host=st.text(st.characters(exclude_characters='"\\', exclude_categories=["C"]), max_size=9))
def test_a_port_is_accepted_if_and_only_if_it_is_in_range(
    tmp_path_factory: pytest.TempPathFactory, port: int, host: str
) -> None:
    path = write_settings(tmp_path_factory.getbasetemp(), f'[server]\nport = {port}\nhost = "{host}"\n')
    if 0 <= port <= 65_535:
        assert load_config(path, {}).server.port == port
        assert load_config(path, {}).server.host == host
    else:
        with pytest.raises(ConfigError, match=r"server\.port"):
            load_config(path, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mapping.node_exporter.uptme]\nenabled = false", "mapping.node_exporter.uptme"),
        ('[mapping.node_exportr]\nserver = ["host"]', "mapping.node_exportr: has no rule.*node_exporter"),
        ("[mapping]\nnode_exporter = 3", "mapping.node_exporter"),
        ('[mapping]\nrule_sets = ["none"]', "none"),
        (
            '[mapping.mine]\nserver = ["a"]\n[mapping.mine.cpu_user]\nmetric = "m"\nkind = "cnt"',
            "mapping.mine.cpu_user",
        ),
    ],
)
def test_a_wrong_rule_is_found_when_the_settings_are_read(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"(?s){path}.*{message}"):
        load_config(path, {})


def test_rule_sets_are_chosen_by_a_variable() -> None:
    assert load_config(None, {"STREAMD_RULE_SETS": "collectd,netdata"}).mapping.rule_sets == ("collectd", "netdata")


# ---------------------------------------------------------------- access
def test_files_of_access_are_relative_to_the_file(tmp_path: Path) -> None:
    text = '[access]\ntokens_file = "t"\ntls_certificate = "c"\ntls_key = "/k"\ntls_client_ca = "a"\n'
    access = load_config(write_settings(tmp_path, text), {}).access
    found = (access.tokens_file, access.tls_certificate, access.tls_key, access.tls_client_ca)
    assert found == (str(tmp_path / "t"), str(tmp_path / "c"), "/k", str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ({"STREAMD_TLS_CERTIFICATE": "c"}, "tls_key"),
        ({"STREAMD_TLS_KEY": "k"}, "tls_certificate"),
        ({"STREAMD_TLS_CLIENT_CA": "a"}, "tls_certificate"),
    ],
)
def test_half_of_tls_is_named(given: dict[str, str], missing: str) -> None:
    with pytest.raises(ConfigError, match=rf"\[access\] {missing}: is empty"):
        load_config(None, given)


def test_a_pair_may_come_from_two_sources(tmp_path: Path) -> None:
    path = write_settings(tmp_path, '[access]\ntls_certificate = "/c"\n')
    assert load_config(path, {"STREAMD_TLS_KEY": "/k"}).access.tls_key == "/k"


@pytest.mark.parametrize(("text", "value"), [("", ()), ("a.example,b.example", ("a.example", "b.example"))])
def test_hosts_and_origins_are_lists_that_may_be_empty(text: str, value: tuple[str, ...]) -> None:
    access = load_config(None, {"STREAMD_ALLOWED_HOSTS": text, "STREAMD_ALLOWED_ORIGINS": text}).access
    assert (access.allowed_hosts, access.allowed_origins) == (value, value)


def test_an_admin_token_that_others_could_write_or_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"s3cret\xff")
    path.chmod(0o600)
    config = load_config(None, {"STREAMD_ADMIN_TOKEN_FILE": str(path)})
    with pytest.raises(ConfigError, match="is not UTF-8") as caught:
        read_admin_token(config)
    assert caught.value.__context__ is None or caught.value.__suppress_context__, "it has a part of the token"
    path.write_bytes(b"s3cret\n")
    assert read_admin_token(config) == "s3cret"
    path.chmod(0o620)
    with pytest.raises(ConfigError, match="may be written by others"):
        read_admin_token(config)


def test_the_admin_token_is_in_no_text_of_the_settings(tmp_path: Path) -> None:
    config = load_config(None, {"STREAMD_ADMIN_TOKEN": "s3cret"})
    assert config.server.admin_token == "s3cret"
    for shown in (repr(config), str(config), repr(config.server), f"{config}"):
        assert "s3cret" not in shown
        assert "port=8002" in shown
    path = write_settings(tmp_path, '[server]\nadmin_token = "s3cret"\nport = "x"\n')
    with pytest.raises(ConfigError) as caught:
        load_config(path, {})
    assert "s3cret" not in str(caught.value)
