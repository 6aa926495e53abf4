"""Opens sessions of ONNX Runtime on the CPU or on CUDA, for lanes and runners, and translates their errors.

A session never silently runs on another device than the requested one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from streamd.core.errors import BackendUnavailableError, BatchFailedError, InferenceError, LaneLostError
from streamd.inference.checked import CheckedFiles
from streamd.inference.leaked import leak_deliberately
from streamd.inference.onnxruntime.library import (
    CUDA_PROVIDER,
    explain_missing_provider,
    import_onnxruntime,
    mentions_broken_device,
    suggest_less_memory,
)


def open_cpu_session(model: Path, threads: int, *, optimized: bool = True, checked: CheckedFiles | None = None) -> Any:
    """Open a session on the CPU with this many threads; raises `BackendUnavailableError`.

    Without `optimized` each node runs as it is written; with `checked` a graph that is not the checked one is refused.
    """
    runtime = import_onnxruntime()
    options = _make_options(runtime, threads)
    # Spinning threads would take the cores that prepare the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if not optimized:
        options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _open_source(model, options, checked) as source:
        return _open_on_cpu(runtime, model, source, options)


def _open_on_cpu(runtime: Any, model: Path, source: str | bytes, options: Any) -> Any:
    try:
        return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as exc:  # ONNX Runtime's errors have no common root of their own
        raise BackendUnavailableError(f"{model}: ONNX Runtime cannot load it: {exc}") from exc


def open_cuda_session(
    runtime: Any,
    model: Path,
    device: int,
    *,
    tensor_float32: bool = False,
    stream: int | None = None,
    limit_bytes: int | None = None,
    checked: CheckedFiles | None = None,
) -> Any:
    """Open a session on a CUDA device, on the stream with this handle or on a stream of its own.

    `runtime` is the module that `load_onnxruntime` returned; `limit_bytes` limits the memory of its tensors; with
    `checked` a graph that is not the checked one is refused. Raises `BackendUnavailableError`. From its first run on
    the session stays open until the process ends.
    """
    options = _make_options(runtime, 1)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    provider = {
        "device_id": str(device),
        # Batches differ in size: the default would double the arena at each new peak, and try every convolution
        # algorithm for each new size.
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": str(int(tensor_float32)),
    }
    if stream is not None:
        provider["user_compute_stream"] = str(stream)
    if limit_bytes is not None:
        provider["gpu_mem_limit"] = str(limit_bytes)
    with _open_source(model, options, checked) as source:
        session = _open_on_cuda(runtime, model, source, options, provider)
    if CUDA_PROVIDER not in session.get_providers():
        raise BackendUnavailableError(f"ONNX Runtime left CUDA out: {explain_missing_provider(runtime)}")
    return _CudaSession(session)


def _open_on_cuda(runtime: Any, model: Path, source: str | bytes, options: Any, provider: dict[str, str]) -> Any:
    try:
        # Without `enable_fallback=0` a session that CUDA refused is silently made anew on the CPU.
        return runtime.InferenceSession(source, options, providers=[(CUDA_PROVIDER, provider)], enable_fallback=0)
    except Exception as exc:  # as above
        text = f"{model}: ONNX Runtime cannot load it on cuda:{provider['device_id']}: {exc}"
        raise BackendUnavailableError(text + suggest_less_memory(str(exc))) from exc


@contextmanager
def _open_source(model: Path, options: Any, checked: CheckedFiles | None) -> Iterator[str | bytes]:
    """Yield the source of a session: a path, or with `checked` the bytes of the checked graph.

    From a path ONNX Runtime would read the file again and map its data files, so that a later write to them would
    change the weights of a running session.
    """
    if checked is None:
        yield str(model)
        return
    graph, data = checked.read_graph(model.name), checked.read_data(model.name)
    if data:
        give = getattr(options, "add_external_initializers_from_files_in_memory", None)
        if give is None:
            raise BackendUnavailableError(
                f"{model}: this ONNX Runtime takes no weights of other files from memory: install a newer one, or "
                "embed the weights in the graph"
            )
        give(list(data), list(data.values()), [len(content) for content in data.values()])
    yield graph  # `data` must live until the session is made


class _CudaSession:
    """A session that is never destroyed after its first run; in all else it is the session itself.

    ONNX Runtime frees the pinned memory of a run in a CUDA host callback. If the session is destroyed at that moment,
    its arena is freed within the callback, CUDA refuses that call ("operation not permitted", 800), and ONNX Runtime
    ends the process. This was seen with 1.31 on an H200 when sessions were closed right after a batch. The cost is
    the session's memory on the device.
    """

    def __init__(self, session: Any) -> None:
        self._session = session
        self._is_leaked = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, *given: Any) -> Any:
        self._leak_once()
        return self._session.run(*given)

    def run_with_iobinding(self, *given: Any) -> None:
        self._leak_once()
        self._session.run_with_iobinding(*given)

    def _leak_once(self) -> None:
        if not self._is_leaked:  # two runners that share it may both leak it, which does no harm
            self._is_leaked = True
            leak_deliberately(self._session)


def make_run_error(owner: str, device: str, error: Exception) -> InferenceError:
    """Return the error of a failed run: that of a lost lane if a GPU is broken by its text, else of the batch."""
    text = f"{owner}: ONNX Runtime: {error}"
    if device != "cpu" and mentions_broken_device(str(error)):
        return LaneLostError(text, device_gone=True)
    return BatchFailedError(text + suggest_less_memory(text))


def _make_options(runtime: Any, threads: int) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options
