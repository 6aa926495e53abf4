"""`python -m streamd` is the console command."""

import sys

from streamd.cli import main

if __name__ == "__main__":
    sys.exit(main())
