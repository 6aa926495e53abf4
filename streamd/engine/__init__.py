"""Any ONNX network with a batch axis as a Python function: `InferenceEngine` and `Ensemble`.

with InferenceEngine.open("model.onnx") as engine:
    outputs = engine({"image": images})          # any number of rows
    scores = engine.slide(volume, overlap=0.5)   # an array larger than the network's input
"""

from streamd.inference.api.ensemble import Ensemble
from streamd.inference.api.inference import InferenceEngine
from streamd.inference.api.memory import compute_series_memory

__all__ = ["Ensemble", "InferenceEngine", "compute_series_memory"]
