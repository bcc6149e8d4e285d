"""``python -m capture``: the command of that name."""

import sys

from capture.cli import main

if __name__ == "__main__":
    sys.exit(main())
