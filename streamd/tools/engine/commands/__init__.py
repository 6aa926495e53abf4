"""The commands that read and change the model repository, one module each.

Each has `DESCRIPTION`, `EXAMPLES`, `add_arguments(parser)` and `main(args)`, which returns the exit status or raises.
A module imports heavy libraries only within functions, so that `--help` is quick.
"""
