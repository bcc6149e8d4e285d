"""Freed memory is kept while a capture runs and given back when it ends: by page faults of a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import contextlib, resource, sys
import torch
from capture.heap import give_back_large_blocks, keep_any_block, keep_small_blocks, large_blocks_given_back

way, BLOCK_BYTES = sys.argv[1], int(sys.argv[2])
@contextlib.contextmanager
def amid():
    with keep_small_blocks(), large_blocks_given_back():
        yield

@contextlib.contextmanager
def after():
    with keep_small_blocks():
        with large_blocks_given_back():
            pass
        yield

@contextlib.contextmanager
def kept():
    with keep_small_blocks(), keep_any_block():
        yield

ways = {"kept": kept, "small kept": keep_small_blocks, "as it is": contextlib.nullcontext}
ways |= {"amid": amid, "after": after}
give_back_large_blocks()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
with ways[way]():
    for _ in range(16):  # glibc comes to rest after some aligned blocks of a size
        torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
    before, base = faults(), resident()
    for _ in range(4):
        torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
    print(faults() - before)
print(base - resident())
torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
"""
SMALL, LARGE = 8 * 2**20, 48 * 2**20
PAGE = 4096

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the C library that this is about is Linux's")


def measured(way: str, block_bytes: int) -> list[int]:
    """(page faults of four blocks one after the other, bytes held beyond the end of ``way``)."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, way, str(block_bytes)], stdout=subprocess.PIPE, text=True, check=True
    )
    return [int(line) for line in done.stdout.split()]


def test_freed_memory_is_kept_for_the_next_batch_and_given_back_at_the_end() -> None:
    faults, given_back = measured("kept", LARGE)
    assert faults < LARGE // PAGE // 4
    assert given_back > LARGE // 2
    assert measured("as it is", LARGE)[0] >= LARGE // PAGE


@pytest.mark.slow
def test_small_blocks_are_kept_for_the_next_layer_and_large_ones_given_back() -> None:
    assert measured("small kept", SMALL)[0] < SMALL // PAGE // 4
    assert measured("as it is", SMALL)[0] >= SMALL // PAGE
    assert measured("small kept", LARGE)[0] >= LARGE // PAGE


@pytest.mark.slow
def test_while_a_layer_is_converted_no_large_block_is_kept() -> None:
    assert measured("amid", SMALL)[0] >= SMALL // PAGE
    assert measured("after", SMALL)[0] < SMALL // PAGE // 4
