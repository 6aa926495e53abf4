"""Training, export and evaluation of the networks (extra `[train]`). The daemon never imports this room."""
