"""ONNX Runtime as its GPU package is, over the CPU's: real graphs run, bound to the "device" memory of `FakeCuda`.

What the CUDA provider asks of its callers is checked here; what goes wrong is scripted.
"""

import types
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import onnxruntime

from tests.support.fake_cuda import FakeCuda

PROVIDER = "CUDAExecutionProvider"


@dataclass
class Script:
    """What the package does next, and what was seen of its use."""

    cuda: FakeCuda | None = None
    """Whose memory and streams the sessions use; none: they use none of ours."""
    available: tuple[str, ...] = (PROVIDER, "CPUExecutionProvider")
    providers: tuple[str, ...] = (PROVIDER, "CPUExecutionProvider")
    """What a session says that it runs on."""
    refusals: deque[str] = field(default_factory=deque)
    """Texts of the errors that the next sessions are refused with."""
    failures: deque[str] = field(default_factory=deque)
    """Texts of the errors that the next runs raise; an empty one lets a run pass."""
    break_device: bool = False
    """Whether a run that fails leaves its device broken."""
    options: list[dict[str, str]] = field(default_factory=list)
    """Each session's provider options."""
    bound: int = 0
    """How often something was bound."""
    kept: int = 0
    """How many sessions were to live as long as the process; here they go with their last user."""
    sessions: int = 0
    """How many sessions live."""

    def keep(self, session: "FakeSession") -> None:
        """Stand in for `leak_deliberately`."""
        self.kept += 1


class FakeOnnxRuntimeGpu(types.ModuleType):
    """Stands in for the module `onnxruntime`."""

    __version__ = "1.99.0"
    cuda_version = "13.0"
    SessionOptions = onnxruntime.SessionOptions
    RunOptions = onnxruntime.RunOptions

    def __init__(self, folder: str, script: Script) -> None:
        super().__init__("onnxruntime")
        self.__file__ = f"{folder}/__init__.py"
        self._script = script

    def get_available_providers(self) -> list[str]:
        return list(self._script.available)

    def preload_dlls(self) -> None:
        print("Failed to load libcublasLt.so.13")  # noqa: T201 - as the real one does

    def InferenceSession(  # noqa: N802
        self, path: str, options: Any, *, providers: Any, enable_fallback: int
    ) -> "FakeSession":
        assert enable_fallback == 0, "a refused session would be made anew on the CPU"
        ((name, given),) = providers
        assert name == PROVIDER
        assert all(isinstance(value, str) for value in given.values())
        self._script.options.append(given)
        if self._script.refusals:
            raise RuntimeError(self._script.refusals.popleft())
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return FakeSession(session, given, self._script)


class FakeSession:
    """A session of the CPU that passes for one of the GPU."""

    def __init__(self, session: Any, given: dict[str, str], script: Script) -> None:
        self._session = session
        self._script = script
        self._stream = int(given.get("user_compute_stream", 0))
        self.device = int(given["device_id"])
        script.sessions += 1
        if script.cuda is not None:
            assert self._stream in script.cuda.streams, "the stream is there before the session"

    def __del__(self) -> None:
        self._script.sessions -= 1
        if self._script.cuda is not None:
            assert self._stream in self._script.cuda.streams, "the stream outlives the session"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return list(self._script.providers)

    def io_binding(self) -> "FakeBinding":
        return FakeBinding(self._session.io_binding(), self.device, self._script)

    def run(self, names: list[str], feed: dict[str, Any]) -> Any:
        self._fail()
        return self._session.run(names, feed)

    def run_with_iobinding(self, binding: "FakeBinding", options: Any) -> None:
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self._fail()
        self._session.run_with_iobinding(binding.real)

    def _fail(self) -> None:
        if self._script.failures and (text := self._script.failures.popleft()):
            if self._script.break_device:
                assert self._script.cuda is not None
                self._script.cuda.broken.add(self.device)
            raise RuntimeError(text)


class FakeBinding:
    """Takes what lies in the device's memory, and nothing else."""

    def __init__(self, real: Any, device: int, script: Script) -> None:
        self.real = real
        self._device = device
        self._script = script

    def bind_input(self, name: str, kind: str, device: int, element: Any, shape: Any, pointer: int) -> None:
        self._check(kind, device, pointer)
        self.real.bind_input(name, "cpu", 0, element, shape, pointer)

    def bind_output(self, name: str, kind: str, device: int, element: Any, shape: Any, pointer: int) -> None:
        self._check(kind, device, pointer)
        self.real.bind_output(name, "cpu", 0, element, shape, pointer)

    def _check(self, kind: str, device: int, pointer: int) -> None:
        assert (kind, device) == ("cuda", self._device)
        assert self._script.cuda is not None
        assert pointer in self._script.cuda.memory, "an address that was allocated"
        self._script.bound += 1
