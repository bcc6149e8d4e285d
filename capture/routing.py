"""What a mixture of experts decides for each token, and how large its experts' outputs grow, seen as it computes.

A layer's experts are called with ids and weights; the call is observed, and each expert's output where the model lets
it pass before it is weighted. Nothing is computed twice and nothing is changed. A call that does not come, because
something else computes the layer, is an error: routing that was not seen must not look like routing.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn

from capture.experts import SEEN_IMPLEMENTATIONS, Routing, routed
from schemas.bits import encoding_named
from schemas.errors import CaptureError

__all__ = ["RoutingHooks", "expert_peaks", "row_peaks"]

Receiver = Callable[[str, int, torch.Tensor], None]

CACHED_VALUES = 2**20
"""Values whose magnitudes are taken at once on a CPU, so that they stay in its cache: 3 ms for 16,384 rows of 2,048,
70 ms with a fresh tensor of all of them."""


class RoutingHooks:
    """While entered, hands ``receive(array, layer, values)`` the routing of each layer that has experts.

    ``expert_id`` (sequence, position, rank) are int16 patterns of uint16, ``expert_weight`` float32 alike, best first;
    ``expert_peak`` is (sequence, expert) float32.
    """

    def __init__(self, model: nn.Module, routing: Routing, receive: Receiver) -> None:
        """Nothing is hooked until the context is entered."""
        self._model = model
        self._routing = routing
        self._receive = receive
        self._stack = ExitStack()
        self._shape = (0, 0)
        self._layers: Container[int] | None = None
        self._called: dict[int, torch.Tensor] = {}
        self._passed: set[int] = set()

    def __enter__(self) -> RoutingHooks:
        """Register the hooks; none stays behind where one cannot be registered."""
        with ExitStack() as stack:
            for layer, path in self._with_experts():
                experts = self._model.get_submodule(path)
                handle = experts.register_forward_pre_hook(self._call_hook(layer, path), with_kwargs=True)
                stack.callback(handle.remove)
                if self._routing.peak_absent is None:
                    stack.enter_context(_each_output(experts, self._output_hook(experts, layer, path)))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        self._stack.close()
        self._called.clear()

    def expect(self, sequences: int, positions: int, features: int, layers: Container[int] | None = None) -> None:
        """Announce the shape of the next forward's hidden states, and the layers that it runs (default: all)."""
        self._shape = (sequences, positions)
        self._layers = layers
        self._called.clear()
        self._passed.clear()

    def check(self) -> None:
        """Raise CaptureError unless the experts of every layer were called since ``expect``, and their outputs seen."""
        for layer, path in self._with_experts():
            if self._layers is not None and layer not in self._layers:
                continue
            if layer not in self._called:
                raise _unseen(f"layer {layer} computed without a call of its experts ({path})")
            if self._routing.peak_absent is None and layer not in self._passed:
                raise _unseen(f"the outputs of the experts of layer {layer} ({path}) did not pass where they should")

    def _with_experts(self) -> Iterator[tuple[int, str]]:
        return ((layer, path) for layer, path in enumerate(self._routing.modules) if path is not None)

    def _call_hook(self, layer: int, path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            call = routed(args, kwargs)
            if isinstance(call, str):
                raise _unseen(f"{path} {call}")
            _, ids, weights = call
            sequences, positions = self._shape
            shape = (sequences * positions, self._routing.top_k)
            if tuple(ids.shape) != shape:
                raise _unseen(f"{path} is called with ids of shape {tuple(ids.shape)} where {shape} is due")
            if layer in self._called:
                raise _unseen(f"{path} is called a second time in one forward")
            lowest, highest = map(int, torch.aminmax(ids))
            if lowest < 0 or highest >= self._routing.experts:
                raise _unseen(
                    f"{path} is called with ids {lowest} to {highest}; it has {self._routing.experts} experts"
                )
            if not bool(weights.any()):
                raise _unseen(f"{path} is called with weights that are all 0")
            self._called[layer] = ids
            # Routers give the best first, or as they come (GLM), or in the order of other scores (Ernie 4.5).
            order = weights.argsort(dim=-1, descending=True, stable=True)
            each = (sequences, positions, -1)
            self._receive("expert_id", layer, ids.gather(-1, order).to(torch.int16).reshape(each))
            self._receive("expert_weight", layer, weights.gather(-1, order).float().reshape(each))

        return hook

    def _output_hook(self, experts: Any, layer: int, path: str) -> Callable[[torch.Tensor], None]:
        implementation = experts.config._experts_implementation
        if implementation not in SEEN_IMPLEMENTATIONS:
            raise _unseen(f"{path} is computed by {implementation}")

        def see(outputs: torch.Tensor) -> None:
            ids = self._called[layer]
            if outputs.ndim != 2 or len(outputs) != ids.numel() or layer in self._passed:
                raise _unseen(
                    f"outputs of shape {tuple(outputs.shape)} pass {path}, where {ids.numel()} are due, once a forward"
                )
            self._passed.add(layer)
            sequences, _ = self._shape
            peaks = expert_peaks(outputs, ids, sequences, self._routing.experts, implementation == "grouped_mm")
            self._receive("expert_peak", layer, peaks)

        return see


def _unseen(what: str) -> CaptureError:
    return CaptureError(
        f"routing cannot be captured: {what}. The store is incomplete and says so; please report this architecture"
    )


@contextmanager
def _each_output(experts: Any, see: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """While entered, ``see`` gets what every expert gives each of its tokens, before it is weighted: (row, feature).

    Experts of transformers may have a norm after each of them (``post_expert_norm``). Where there is one, its input is
    seen; where there is none, a function that hands on what it is given takes its place.
    """
    if experts.has_post_expert_norm:
        handle = experts.post_expert_norm.register_forward_pre_hook(lambda module, args: see(args[0]))
        try:
            yield
        finally:
            handle.remove()
        return

    def hand_on(outputs: torch.Tensor) -> torch.Tensor:
        see(outputs)
        return outputs

    experts.has_post_expert_norm, experts.post_expert_norm = True, hand_on
    try:
        yield
    finally:
        experts.has_post_expert_norm = False
        del experts.post_expert_norm


def expert_peaks(
    outputs: torch.Tensor, ids: torch.Tensor, sequences: int, experts: int, by_expert: bool
) -> torch.Tensor:
    """(sequence, expert) float32: the largest magnitude of each expert's ``outputs``; NaN where no token chose it.

    ``outputs`` (token x rank, feature) come in the order of ``ids`` (token, rank), or sorted ``by_expert`` as
    transformers sorts them. NaN is passed over; an expert whose outputs are all NaN has 0.
    """
    expert = ids.reshape(-1)
    row = torch.arange(len(expert), device=expert.device)
    if by_expert:  # as grouped_mm_experts_forward sorts: equal ids come in the same order from the same call
        expert, row = torch.sort(expert)
    cell = row // (len(expert) // sequences) * experts + expert
    largest = torch.full((sequences * experts,), -1.0, device=expert.device)
    largest.scatter_reduce_(0, cell, row_peaks(outputs), "amax")
    return largest.masked_fill_(largest < 0, float("nan")).reshape(sequences, experts)


def row_peaks(rows: torch.Tensor) -> torch.Tensor:
    """(row,) float32: the largest magnitude of each of ``rows`` (row, feature), exactly; NaN is passed over."""
    encoding = encoding_named(str(rows.dtype).removeprefix("torch."))
    bits = rows.contiguous().view(torch.int16 if encoding.itemsize == 2 else torch.int32)
    peaks = torch.empty(len(bits), dtype=bits.dtype, device=bits.device)
    step = max(1, CACHED_VALUES // bits.shape[1]) if bits.device.type == "cpu" else max(1, len(bits))
    scratch = torch.empty_like(bits[:step])
    for start in range(0, len(bits), step):
        part = bits[start : start + step]
        magnitude = torch.bitwise_and(part, encoding.sign_mask - 1, out=scratch[: len(part)])
        torch.amax(magnitude, dim=1, out=peaks[start : start + step])
    marred = peaks > encoding.infinity
    if bool(marred.any()):
        magnitude = bits[marred] & (encoding.sign_mask - 1)
        peaks[marred] = magnitude.masked_fill_(magnitude > encoding.infinity, 0).amax(dim=1)
    return peaks.view(rows.dtype).float()
