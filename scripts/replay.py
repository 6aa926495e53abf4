#!/usr/bin/env python3
"""Replay a fleet into a running daemon and account for every forecast: ``scripts/replay.py --help``."""

import sys

from streamd.tools.loadtest.cli import main

if __name__ == "__main__":
    sys.exit(main())
