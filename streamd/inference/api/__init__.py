"""Any ONNX network as a Python function; its public name is `streamd.engine`."""
