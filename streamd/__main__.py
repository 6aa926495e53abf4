"""Runs the console command as `python -m streamd`."""

import sys

from streamd.cli import main

if __name__ == "__main__":
    sys.exit(main())
