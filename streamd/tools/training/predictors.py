"""Models as functions of NumPy arrays, so that a backtest does not depend on what runs them.

This module only runs models; it reads no manifest.
"""

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from streamd.tools.networks.contract import INPUT_NAMES, OUTPUT_NAME
from streamd.tools.training.backtest import Predict


def make_torch_predictor(model: nn.Module, device: torch.device) -> Predict:
    """Return a function that runs a network on `device`, in float32."""

    def predict(inputs: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            out = model(*(torch.from_numpy(inputs[key]).to(device) for key in INPUT_NAMES))
        return np.asarray(out.cpu().numpy())

    return predict


def make_onnx_predictor(path: Path, threads: int = 0) -> Predict:
    """Return a function that runs an exported graph on the CPU; with `threads` 0, ONNX Runtime chooses the number."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def predict(inputs: dict[str, np.ndarray]) -> np.ndarray:
        return np.asarray(session.run([OUTPUT_NAME], {k: inputs[k] for k in INPUT_NAMES})[0])

    return predict
