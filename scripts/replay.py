#!/usr/bin/env python3
"""Run `streamd replay` from a checkout: see `scripts/replay.py --help`."""

import sys

from streamd.cli import main

if __name__ == "__main__":
    sys.exit(main(["replay", *sys.argv[1:]]))
