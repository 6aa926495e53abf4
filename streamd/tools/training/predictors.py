"""Models as functions of NumPy arrays, so that a backtest does not depend on what runs them.

This module only runs models; it reads no manifest. PyTorch and ONNX Runtime are imported only when one of them runs.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamd.core.contract import MEMORY_INPUT
from streamd.tools.networks.contract import INPUT_NAMES, OUTPUT_NAME
from streamd.tools.training.backtest import Predict

if TYPE_CHECKING:
    import torch
    from torch import nn


def make_torch_predictor(model: "nn.Module", device: "torch.device | str" = "cpu") -> Predict:
    """Return a function that runs a network on `device`, in float32, with a memory if the inputs have one."""
    import torch

    def predict(inputs: dict[str, np.ndarray]) -> np.ndarray:
        names = [name for name in (*INPUT_NAMES, MEMORY_INPUT) if name in inputs]
        with torch.no_grad():
            out = model(*(torch.from_numpy(inputs[name]).to(device) for name in names))
        return np.asarray(out.cpu().numpy())

    return predict


def make_onnx_predictor(path: Path, threads: int = 0) -> Predict:
    """Return a function that runs an exported graph on the CPU; with `threads` 0, ONNX Runtime chooses the number.

    An input that the graph does not have is not passed on.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # An optional input has an initializer of its name, of which a warning is logged.
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = {each.name for each in [*session.get_inputs(), *session.get_overridable_initializers()]}

    def predict(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(session.run([OUTPUT_NAME], {k: v for k, v in inputs.items() if k in names})[0])

    return predict
