"""``python -m analyze``: the command of that name."""

import sys

from analyze.cli import main

if __name__ == "__main__":
    sys.exit(main())
