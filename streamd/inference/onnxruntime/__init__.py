"""ONNX Runtime on the CPU and on CUDA: sessions, lanes and runners."""
