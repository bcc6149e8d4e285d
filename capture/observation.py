"""All hooks of one capture as one context: what is observed of a forward, whichever engine runs it.

An *observer* hooks a model and hands what it sees to the sink. What else is to be observed of a model is another
observer in ``observe``: engines know none of them.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol

import torch

from capture.hooks import SiteHooks
from capture.norm_hooks import NormHooks
from capture.plan import CapturePlan
from capture.routing import RoutingHooks
from capture.sink import Sink

__all__ = ["Observation", "Observer", "observe"]


class Observer(Protocol):
    """Hooks that are registered while it is entered, and that can tell whether they saw what they should have."""

    def __enter__(self) -> Any:
        """Register the hooks."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        """Remove them."""

    def expect(self, sequences: int, positions: int, features: int, layers: Container[int] | None = None) -> None:
        """Announce the shape of the next forward's hidden states, and the layers that it runs (default: all)."""

    def check(self) -> None:
        """Raise CaptureError unless everything fired since ``expect``."""


class Observation:
    """Observers entered, announced to and checked together."""

    def __init__(self, plan: CapturePlan, observers: Sequence[Observer]) -> None:
        """Nothing is hooked until the context is entered."""
        self._dimensions = plan.dimensions
        self._observers = observers
        self._stack = ExitStack()

    def __enter__(self) -> Observation:
        """Register all hooks; none stays behind where one cannot be registered."""
        with ExitStack() as stack:
            for observer in self._observers:
                stack.enter_context(observer)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove all hooks."""
        self._stack.close()

    def expect(self, sequences: int, layers: Container[int] | None = None) -> None:
        """Announce a forward of so many sequences, and the layers that it runs (default: all)."""
        for observer in self._observers:
            observer.expect(sequences, self._dimensions.positions, self._dimensions.features, layers)

    def check(self) -> None:
        """Raise CaptureError unless everything fired since ``expect``."""
        for observer in self._observers:
            observer.check()


def observe(model: Any, plan: CapturePlan, dtype: torch.dtype, sink: Sink) -> Observation:
    """The observers that ``plan`` asks for, handing what they see of ``model`` to ``sink``."""
    norms = NormHooks(model, plan, sink, sink.cell)
    observers: list[Observer] = [SiteHooks(model, plan.sites, dtype, norms.site), norms]
    if plan.routing is not None and plan.dimensions.ranks:
        observers.append(RoutingHooks(model, plan.routing, sink.observe))
    return Observation(plan, observers)
