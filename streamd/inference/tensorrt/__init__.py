"""TensorRT: plan files, engines, executors on a stream, lanes and runners."""
