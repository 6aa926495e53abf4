"""The commands that look at and change the model repository, one module each.

Each has `DESCRIPTION`, `EXAMPLES`, `add_arguments(parser)` and `main(args)`, which returns the exit status or raises.
"""
