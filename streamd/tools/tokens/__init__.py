"""The command `streamd token`: makes, lists and revokes tokens in the file that the daemon watches.

It changes the file only; the daemon, which may not run, finds the change by itself.
"""
