"""`streamd top`: a running daemon in the terminal, read over HTTP."""
