"""Freed memory is kept while a capture runs and given back when it ends: by page faults of a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

CHILD = """
import contextlib, resource, sys
import torch
from capture.heap import keep_freed_memory

BLOCK_BYTES = 48 * 2**20

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
with keep_freed_memory() if sys.argv[1] == "kept" else contextlib.nullcontext():
    for _ in range(16):  # glibc comes to rest after some aligned blocks of a size
        torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
    before, base = faults(), resident()
    for _ in range(4):
        torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
    print(faults() - before)
print(base - resident())
torch.zeros(BLOCK_BYTES, dtype=torch.uint8)
"""
PAGES = 48 * 2**20 // 4096


@pytest.mark.skipif(sys.platform != "linux", reason="the C library that this is about is Linux's")
def test_freed_memory_is_kept_for_the_next_batch_and_given_back_at_the_end() -> None:
    took = {}
    for way in ("kept", "as it is"):
        done = subprocess.run([sys.executable, "-c", CHILD, way], stdout=subprocess.PIPE, text=True, check=True)
        took[way] = [int(line) for line in done.stdout.split()]
    assert took["kept"][0] < PAGES // 4
    assert took["kept"][1] > PAGES * 4096 // 2
    assert took["as it is"][0] >= took["kept"][0]
