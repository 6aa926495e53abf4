"""An experiment: the patch forecaster as one CUDA kernel."""
