"""Graphs in half precision and int8: which nodes stay in float32, and why.

Nothing here builds a TensorRT plan or runs on a GPU; ONNX Runtime on the CPU measures.
"""
