"""Tests `streamd/inference/cuda`.

The funnel checks every call; owners release what they hold, once, whatever happened to the device.
"""

import numpy as np
import pytest

from streamd.inference import cuda
from streamd.inference.cuda import CudaError, CudaGraph, DeviceBuffer, Event, HostBuffer, Stream, runtime
from tests.support.fake_cuda import FakeCuda


def test_without_cuda_python_there_is_no_device_and_the_reason_names_the_way_out() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, "cuda", None)
        assert cuda.count_devices() == 0
        assert "streamd[tensorrt]" in cuda.explain_no_device()


def test_without_a_driver_there_is_no_device(device: FakeCuda) -> None:
    device.devices = 0
    assert cuda.count_devices() == 0
    assert "cudaErrorInsufficientDriver (35)" in cuda.explain_no_device()


def test_devices_tell_their_names(device: FakeCuda) -> None:
    assert cuda.count_devices() == 2
    assert cuda.get_device_name(1) == "Fake GPU"
    assert cuda.get_compute_capability(0) == "9.0"
    assert cuda.get_memory_bytes(0) == (1 << 40, 1 << 40)


def test_an_error_names_the_call_its_number_and_its_device(device: FakeCuda) -> None:
    device.fail("cudaMalloc", 2)
    with pytest.raises(CudaError, match=r"cudaMalloc on device 0: cudaErrorMemoryAllocation \(2\)") as raised:
        DeviceBuffer(16)
    assert (raised.value.number, raised.value.sticky) == (2, False)


def test_views_of_pinned_memory_lie_within_it(device: FakeCuda) -> None:
    with HostBuffer(64) as buffer:
        view = buffer.array(np.float32, (2, 3), offset=8)
        view[:] = 7
        assert buffer.array(np.float32, (16,)).tolist() == [0, 0] + [7] * 6 + [0] * 8
        for shape, offset in (((17,), 0), ((1,), 64), ((1,), -4)):
            with pytest.raises(ValueError, match="expected one within 64"):
                buffer.array(np.float32, shape, offset)
        del view
    with pytest.raises(ValueError, match="open bytes"):
        buffer.array(np.float32, (1,))


def test_closing_twice_is_harmless_and_every_kind_is_counted(device: FakeCuda) -> None:
    owners = [HostBuffer(8), DeviceBuffer(8), Stream(), Event(timing=True)]
    assert cuda.count_live() == {"host_buffers": 1, "device_buffers": 1, "streams": 1, "events": 1}
    for owner in owners * 2:
        owner.close()
    assert cuda.count_live() == {}


def test_a_forgotten_close_warns(device: FakeCuda) -> None:
    stream = Stream()
    handle = stream.handle
    with pytest.warns(ResourceWarning, match="Stream was never closed"):
        del stream
    cuda.call("cudaStreamDestroy", handle)
    cuda.note_released(0, "streams")


def captured(stream: Stream, values: list[int]) -> CudaGraph:
    target, source = np.zeros(2, np.int32), np.asarray(values, np.int32)
    return stream.capture(lambda: cuda.copy_to_device(target.ctypes.data, source, 8, stream))


def test_a_graph_does_its_work_when_launched_and_not_before(device: FakeCuda) -> None:
    with Stream() as stream, HostBuffer(8) as source, HostBuffer(8) as target:
        given, got = source.array(np.int32, (2,)), target.array(np.int32, (2,))
        given[:], got[:] = (3, 4), 0
        with stream.capture(lambda: cuda.copy_to_host(got, given.ctypes.data, 8, stream)) as graph:
            assert got.tolist() == [0, 0]
            graph.launch(stream)
            assert got.tolist() == [3, 4]


def test_a_failed_capture_is_ended_so_that_the_stream_can_be_used(device: FakeCuda) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with Stream() as stream:
        with pytest.raises(RuntimeError, match="no"):
            stream.capture(fail)
        assert device.graphs == {}
        captured(stream, [1, 2]).close()
    device.fail("cudaStreamEndCapture", 900)
    with Stream() as stream, pytest.raises(CudaError, match="CaptureUnsupported"):
        captured(stream, [1, 2])
    device.graphs.clear()


def test_a_graph_that_cannot_be_instantiated_is_not_leaked(device: FakeCuda) -> None:
    device.fail("cudaGraphInstantiate", 2)
    with Stream() as stream, pytest.raises(CudaError):
        captured(stream, [1, 2])


def test_waiting_and_looking(device: FakeCuda) -> None:
    with Stream() as stream, Event() as event:
        event.record(stream)
        device.fail("cudaEventQuery", 600)
        device.fail("cudaStreamQuery", 600)
        assert (event.is_done(), stream.is_done()) == (False, False)
        assert (event.is_done(), stream.is_done()) == (True, True)
        event.synchronize()
        assert event.elapsed_ms(event) == 1.5
        device.fail("cudaStreamQuery", 1)
        with pytest.raises(CudaError, match="cudaErrorInvalidValue"):
            stream.is_done()


def test_a_broken_device_takes_its_owners_with_it_and_comes_back_by_a_reset(device: FakeCuda) -> None:
    owners = [Stream(), DeviceBuffer(8)]
    device.broken.add(0)
    with pytest.raises(CudaError) as raised:
        owners[0].synchronize()  # type: ignore[attr-defined]
    assert raised.value.sticky
    with pytest.raises(CudaError, match="still hold parts of it"):
        cuda.revive(0)
    for owner in owners:
        owner.close()
    assert "cudaDeviceReset" not in device.calls
    cuda.revive(0)
    assert device.calls.count("cudaDeviceReset") == 1
    device.streams.clear()
    device.memory.clear()
    cuda.revive(0)
    assert device.calls.count("cudaDeviceReset") == 1


def test_a_device_that_breaks_while_it_is_taken_into_use_stays_broken(
    device: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "streamd.inference.cuda.devices.use_device", runtime.broken.add
    )  # another lane's error, just then
    cuda.revive(0)
    assert cuda.is_broken(0)


def test_a_device_that_a_reset_does_not_help_stays_broken_and_the_other_is_well(device: FakeCuda) -> None:
    device.broken.add(1)
    device.reset_helps = False
    with pytest.raises(CudaError):
        cuda.use_device(1)
    assert not cuda.is_unrecoverable(1), "nothing was tried yet"
    for _ in range(2):
        with pytest.raises(CudaError):
            cuda.revive(1)
        assert cuda.is_unrecoverable(1)
    cuda.revive(0)
    Stream().close()
