"""Any ONNX graph with a dynamic batch axis: read and checked."""
