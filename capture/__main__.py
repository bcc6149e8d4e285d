"""``python -m capture``, and the command of that name."""

import sys

from schemas.command import start_command

__all__ = ["main"]


def main() -> int:
    """Run the command with the process's own arguments; returns its exit status."""
    return start_command("capture")


if __name__ == "__main__":
    sys.exit(main())
