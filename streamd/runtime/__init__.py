"""The impure hands of `core`: the state file, the lanes' threads, the pipeline and the fan-out on the loop."""
