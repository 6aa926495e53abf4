"""`streamd serve` whose first backend loses its device at SIGUSR1: every batch after it makes an illegal access."""

import signal
import sys

from benchmarks.gpu.crashing import Crash, crash_first_backend
from streamd.cli import main

EVERY_BATCH = 10**9

if __name__ == "__main__":
    crash = Crash()
    crash_first_backend(crash)
    signal.signal(signal.SIGUSR1, lambda *_: crash.arm(EVERY_BATCH))
    sys.exit(main(sys.argv[1:]))
