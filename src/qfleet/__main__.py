"""`python -m qfleet` and `qfleet`."""

import sys

from qfleet.cli.dispatch import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
