"""ONNX graphs with a dynamic batch axis: read, checked and rewritten without a change of precision.

Nothing here knows precisions, TensorRT, or how a version is written.
"""
