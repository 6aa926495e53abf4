"""The decoders of streamd's own formats: samples, subscriptions, tensors, settings, tokens, and the state's files."""

import itertools
import json
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.chaos.tokens import ChaosTokens
from benchmarks.fuzzing.checks import Finding
from benchmarks.fuzzing.mutations import BodyShape
from benchmarks.fuzzing.targets import FuzzTarget, Sink
from benchmarks.harness import ROOT
from streamd.core.access.records import parse_tokens_file
from streamd.core.contract import ModelContract
from streamd.core.errors import ConfigError, InvalidInputError, StateError
from streamd.core.state.samples import Sample
from streamd.http.subscriptions import parse_query, parse_subscribe
from streamd.http.wire.bodies import decode_body_in_steps
from streamd.http.wire.codecs import Decoder, Encoding
from streamd.http.wire.tensors import decode_tensor
from streamd.runtime.state.opening import open_state
from streamd.runtime.state.state import WindowLimits
from streamd.server.config import load_config

CONTRACT = ModelContract(
    features=("cpu_user", "mem_used", "load_average"),
    targets=("cpu_user", "load_average"),
    quantiles=(0.1, 0.5, 0.9),
    context_length=8,
    horizon=4,
    step_seconds=60,
    units={},
    architecture="fake",
)
TIME = 1_763_708_400
_message_decoder = Decoder(dict[str, msgspec.Raw])


def _make_messages() -> list[Any]:
    sample = {"server": "web-01", "time": TIME, "values": {"cpu_user": 12.5, "mem_used": None}, "status": 0}
    columns = {
        "servers": ["a", "b"],
        "time": TIME,
        "features": ["cpu_user", "mem_used"],
        "values": [[1.5, 2], [3, None]],
    }
    return [
        {"samples": [sample]},
        {"id": 7, "samples": [sample, {**sample, "server": "é", "time": "2026-01-02T03:04:05Z"}]},
        {"id": "x", "columns": columns},
        {"columns": {**columns, "time": [TIME, "2026-01-02T03:04:05+01:00"]}},
        {"samples": [sample] * 300},
    ]


def _make_tensor(array: Any) -> dict[str, Any]:
    array = np.ascontiguousarray(array)
    return {"shape": list(array.shape), "dtype": array.dtype.name, "data": array.tobytes()}


# ---------------------------------------------------------------- the wire
def _decode_samples(encoding: Encoding) -> Callable[[bytes, Sink], Iterator[None]]:
    def decode(body: bytes, sink: Sink) -> Iterator[None]:
        _, samples = yield from decode_body_in_steps(body, encoding)
        for index, (place, sample) in enumerate(samples):
            if place != index:
                raise Finding(f"sample {index} has the index {place}")
            if not isinstance(sample, Sample):
                if not isinstance(sample, InvalidInputError):
                    raise Finding(f"{sample!r:.200} is neither a sample nor an error of one")
                sink.reject(sample)
            if index % 250 == 249:
                yield

    return decode


def _list_sample_seeds(encoding: Encoding) -> list[bytes]:
    if encoding is Encoding.JSON:
        return [json.dumps(message).encode() for message in _make_messages()]
    tensor = _make_tensor(np.ones((2, 2), np.float16))
    columns = {"servers": ["a", "b"], "time": TIME, "features": ["cpu_user", "mem_used"], "values": tensor}
    return [msgspec.msgpack.encode(message) for message in (*_make_messages(), {"columns": columns})]


def _decode_subscription(body: bytes, sink: Sink) -> Iterator[None]:
    """Parse a message in an encoding that its first byte chooses, or a query."""
    kind, data = (body[0] % 3, body[1:]) if body else (0, b"")
    if kind == 2:
        pairs = [pair.partition("=")[::2] for pair in data.decode("utf-8", "replace").split("&")]
        parse_query(CONTRACT, pairs)
    else:
        parse_subscribe(CONTRACT, data, (Encoding.JSON, Encoding.MSGPACK)[kind])
    return iter(())


def _list_subscription_seeds() -> list[bytes]:
    message = {"type": "subscribe", "servers": ["web-*", "db-0[1-3]?"], "targets": ["cpu_user"], "quantiles": [0.5]}
    full = {**message, "every": 2, "batch": True, "dtype": "float16"}
    query = b"servers=web-*,db-?&targets=cpu_user&quantiles=0.1,0.9&every=2&batch=true&dtype=float16&server=a,b"
    found = [b"\x02" + query]
    for each in (message, full, {"type": "subscribe"}, {"type": "subscribe", "servers": ["*a*b*c*" * 20] * 50}):
        found += [b"\x00" + json.dumps(each).encode(), b"\x01" + msgspec.msgpack.encode(each)]
    return found


def _decode_tensors(body: bytes, sink: Sink) -> Iterator[None]:
    """Decode the tensors of a predict call in an encoding that the first byte chooses."""
    encoding, data = ((Encoding.JSON, Encoding.MSGPACK)[body[0] % 2], body[1:]) if body else (Encoding.JSON, b"")
    for name, raw in _message_decoder.decode(data, encoding).items():
        array = decode_tensor(name, raw, encoding)
        if array.nbytes > 64 * len(data) + 64:
            raise Finding(f"{name}: {len(data)} bytes became an array of {array.nbytes}")
    return iter(())


def _list_tensor_seeds() -> list[bytes]:
    arrays = {name: np.ones((2, *shape), np.float32) for name, shape in CONTRACT.input_shapes.items()}
    lists = json.dumps({name: array.tolist() for name, array in arrays.items()}).encode()
    packed = msgspec.msgpack.encode({name: _make_tensor(array) for name, array in arrays.items()})
    return [b"\x00" + lists, b"\x01" + packed]


# ---------------------------------------------------------------- files
def _decode_tokens(body: bytes, sink: Sink) -> Iterator[None]:
    parse_tokens_file(body, "tokens.json")
    return iter(())


def _list_token_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        return [ChaosTokens(Path(folder) / "tokens.json", are_used=True).path.read_bytes()]


class _Folder:
    """A folder of one process, made when it is first needed."""

    def __init__(self) -> None:
        self._made: tempfile.TemporaryDirectory[str] | None = None
        self.numbers = itertools.count()

    @property
    def path(self) -> Path:
        if self._made is None:
            self._made = tempfile.TemporaryDirectory(prefix="streamd-fuzz-")
        return Path(self._made.name)


_folder = _Folder()


def _decode_settings(body: bytes, sink: Sink) -> Iterator[None]:
    path = _folder.path / "config.toml"
    path.write_bytes(body)
    load_config(path, {})
    return iter(())


def _list_settings_seeds() -> list[bytes]:
    text = (ROOT / "config.toml").read_bytes()
    rules = b'[mapping.mine]\nserver = ["host"]\n[[mapping.mine.rules]]\nmetric = "m"\nfeature = "cpu_user"\n'
    sections = [f"[{name}]\n".encode() for name in tomllib.loads(text.decode())]
    return [text, rules, b"".join(sections), b'[server]\nport = 1\nhost = "::"\n']


STATE_FILES = ("windows.streamd", "forecasts.streamd")
LIMITS = WindowLimits(capacity=4, need=2, late_steps=8, grace_seconds=10.0)


def _decode_state(body: bytes, sink: Sink) -> Iterator[None]:
    """Open a state folder of which one file, by the first byte, has these bytes."""
    name, data = (STATE_FILES[body[0] % 2], body[1:]) if body else (STATE_FILES[0], b"")
    folder = _folder.path / f"state-{next(_folder.numbers) % 8}"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.is_file():
            old.unlink()
    for other, content in _get_state_files().items():
        (folder / other).write_bytes(data if other == name else content)
    state = open_state(folder, CONTRACT, LIMITS, 1_000.0)
    try:
        for server, slot in state.directory.slots.items():
            if not 0 < len(server.encode("utf-8", "surrogatepass")) <= 256 or not 0 <= state.windows.have[slot] <= 8:
                raise Finding(f"server {server!r} has {state.windows.have[slot]} rows")
    finally:
        state.close()
    return iter(())


_state_files: dict[str, bytes] = {}


def _get_state_files() -> dict[str, bytes]:
    """Return the files of a small sound state, which is made once."""
    if not _state_files:
        folder = _folder.path / "sound"
        state = open_state(folder, CONTRACT, LIMITS, 1_000.0)
        for number in range(3):
            slot, _ = state.admit(f"web-{number:02d}", 1_000.0)
            row = np.full(CONTRACT.forecast_shape, number, np.float32)
            state.board.post(slot, 100, 4, b"model", row)
        state.close()
        _state_files.update({name: (folder / name).read_bytes() for name in STATE_FILES})
    return _state_files


def _list_state_seeds() -> list[bytes]:
    return [bytes([place]) + _get_state_files()[name] for place, name in enumerate(STATE_FILES)]


OWN_TARGETS = (
    FuzzTarget(
        name="samples_json",
        shape=BodyShape.JSON,
        decode=_decode_samples(Encoding.JSON),
        list_seeds=lambda: _list_sample_seeds(Encoding.JSON),
        refusals=(InvalidInputError,),
    ),
    FuzzTarget(
        name="samples_msgpack",
        shape=BodyShape.BYTES,
        decode=_decode_samples(Encoding.MSGPACK),
        list_seeds=lambda: _list_sample_seeds(Encoding.MSGPACK),
        refusals=(InvalidInputError,),
    ),
    FuzzTarget(
        name="subscriptions",
        shape=BodyShape.BYTES,
        decode=_decode_subscription,
        list_seeds=_list_subscription_seeds,
        refusals=(InvalidInputError,),
    ),
    FuzzTarget(
        name="tensors",
        shape=BodyShape.BYTES,
        decode=_decode_tensors,
        list_seeds=_list_tensor_seeds,
        refusals=(InvalidInputError,),
    ),
    FuzzTarget(
        name="tokens_file",
        shape=BodyShape.JSON,
        decode=_decode_tokens,
        list_seeds=_list_token_seeds,
        refusals=(ConfigError,),
    ),
    FuzzTarget(
        name="settings",
        shape=BodyShape.LINES,
        decode=_decode_settings,
        list_seeds=_list_settings_seeds,
        refusals=(ConfigError,),
    ),
    FuzzTarget(
        name="state_files",
        shape=BodyShape.BYTES,
        decode=_decode_state,
        list_seeds=_list_state_seeds,
        is_stateless=False,
        refusals=(StateError,),
    ),
)
"""The decoders of streamd's own formats."""
