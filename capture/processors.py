"""The processors that this process may use, and whether a model that runs on them leaves some free."""

from __future__ import annotations

import os

import torch

__all__ = ["model_takes_all", "processors"]


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def model_takes_all() -> bool:
    """Whether torch computes with a thread for each: whatever else runs meanwhile takes time from one of them, for
    which the others wait."""
    return torch.get_num_threads() >= processors()
