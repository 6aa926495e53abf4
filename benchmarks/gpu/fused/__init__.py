"""An experiment: a former patch forecaster, which no longer ships (`pack.py`), as one CUDA kernel."""
