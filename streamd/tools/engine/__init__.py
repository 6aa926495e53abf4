"""The engine toolchain: from an ONNX graph to checked plans in an engine version's folder."""
