"""Entry point of ``python -m sslkern``."""

import sys

from sslkern.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
