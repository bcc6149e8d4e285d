"""Makes `tests` importable from every test folder: pytest puts the parent of this package on the path.

Files that tests make lie in memory where there is room for them: a store of a property test is written in 0.08 s of
processor time there and in 0.13 s on a disk, which also has its flushes to wait for. ``TMPDIR=/tmp make test`` takes a
disk. Examples of property tests are the same each time; ``pytest --hypothesis-profile=random`` draws others.

``make test`` leaves out what is marked ``slow``, which ``make test-all`` runs: tests that take long, marked where they
stand, and of those that are repeated for each architecture all but ``REPRESENTATIVE``.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.checkpoints.architectures import ARCHITECTURES

MEMORY = Path("/dev/shm")
ROOM_BYTES = 2 * 2**30
"""All that the tests make is 0.3 GB, and the largest checkpoint that does not stay as much again."""


def _keep_files_in_memory() -> None:
    """Before the first temporary file, and for the processes of pytest-xdist too, which are started later."""
    chosen = "TMPDIR" in os.environ or "PYTEST_DEBUG_TEMPROOT" in os.environ
    if not chosen and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= ROOM_BYTES:
        os.environ["TMPDIR"] = str(MEMORY)
        tempfile.tempdir = None


_keep_files_in_memory()
settings.register_profile("same", derandomize=True, deadline=None)  # how long one takes is no property
settings.register_profile("random", deadline=None)
settings.load_profile("same")

REPRESENTATIVE = {"olmoe", "gpt_oss", "qwen3_moe", "mixtral", "qwen3_next", "glm4_moe", "llama", "gemma3n"}
"""The published table's architectures, a dense one, and one whose layers share what they compute."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what repeats a test for an architecture beyond the representative ones."""
    for item in items:
        parameters = getattr(item, "callspec", None)
        named = {value for value in parameters.params.values() if isinstance(value, str)} if parameters else set()
        if named & ARCHITECTURES.keys() and not named & REPRESENTATIVE:
            item.add_marker(pytest.mark.slow)
