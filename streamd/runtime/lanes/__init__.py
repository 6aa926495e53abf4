"""From due servers to stored forecasts: lane threads, gathering, the pipeline, and the supervisor of lanes."""
