"""Several processes of one daemon: a supervisor, an engine process and workers."""
