"""What is observed of the norms that feed the sites: each token's statistics, gain and bias, and a check of it all.

The run stops before anything of a batch is committed whose values are not their norms' output (``capture.norm_check``).
"""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import nn

from capture.norm_check import Applied, NormCheck, Sample
from capture.plan import CapturePlan
from capture.sink import Sink
from schemas.errors import CaptureError
from schemas.layout import NORM_STATISTICS, norm_array_name
from schemas.provenance import NormInfo

__all__ = ["NormHooks"]

CHECKED_POSITIONS = 8
"""Of each sequence, evenly spread from the first, where massive activations live."""


@dataclass(frozen=True)
class _Call:
    """One call of a norm: statistics per token, what entered at the checked positions, the output, and how many sites
    it is still to enter."""

    statistics: tuple[torch.Tensor, ...]
    entered: torch.Tensor
    output: torch.Tensor
    readers: int


class NormHooks:
    """While entered, observes the norm of every stored site that has one; the site's values come by ``receive``."""

    def __init__(
        self, model: nn.Module, plan: CapturePlan, sink: Sink, receive: Callable[[str, int, torch.Tensor], None]
    ) -> None:
        """``receive(site, layer, hidden_BTF)`` is where the site's values go on to."""
        planned = {spec.name for spec in plan.arrays}
        self._norms: dict[str, NormInfo] = {
            site.name: site.norm
            for site in plan.sites
            if site.norm is not None and norm_array_name(site.name, "gain") in planned
        }
        self._model = model
        self._sink = sink
        self._receive = receive
        self._stack = ExitStack()
        self._shape = (0, 0, 0)
        self._calls: dict[str, _Call] = {}
        self._applied: dict[str, Applied] = {}
        self._checks = {name: NormCheck(name, norm) for name, norm in self._norms.items()}
        self._watching = False

    def __enter__(self) -> NormHooks:
        """Register the hooks; none stays behind where one cannot be registered."""
        with ExitStack() as stack:
            for norm in self._norms.values():
                for path in filter(None, norm.modules):
                    hook = self._hook(path, norm)
                    stack.enter_context(self._model.get_submodule(path).register_forward_hook(hook, with_kwargs=True))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        self._stack.close()
        self._calls.clear()

    def expect(self, sequences: int, positions: int, features: int, layers: Container[int] | None = None) -> None:
        """Announce the shape of the next forward's hidden states."""
        self._shape = (sequences, positions, features)
        self._calls.clear()
        for check in self._checks.values():
            check.clear()
        self._watching = True

    def check(self) -> None:
        """Raise CaptureError where what entered a site since ``expect`` is not its norm's output."""
        self._watching = False
        for check in self._checks.values():
            check.judge(self._stride)
            check.clear()

    def site(self, site: str, layer: int, hidden: torch.Tensor) -> None:
        """Take a site's values: hand its norm's statistics, gain and bias to the sink, and the values on."""
        norm = self._norms.get(site)
        if norm is not None:
            path = norm.modules[layer]
            if path is None:
                self._write_applied(site, layer, norm, None)
            else:
                self._observe(site, layer, norm, path, hidden)
        self._receive(site, layer, hidden)

    @property
    def _stride(self) -> int:
        """Between two checked positions."""
        return -(-self._shape[1] // CHECKED_POSITIONS)

    def _hook(self, path: str, norm: NormInfo) -> Callable[..., None]:
        readers = sum(other.modules.count(path) for other in self._norms.values())

        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor) -> None:
            if self._watching:
                entered = args[0] if args else next(iter(kwargs.values()))
                x = entered.reshape(self._shape)
                # A copy, as a model may change its tensors in place.
                sampled = x[:, :: self._stride].to(torch.float32, copy=True)
                self._calls[path] = _Call(_measured(norm, x), sampled, output, readers)

        return hook

    def _observe(self, site: str, layer: int, norm: NormInfo, path: str, hidden: torch.Tensor) -> None:
        call = self._calls.pop(path, None)
        if call is None:
            raise CaptureError(
                f"{site} of layer {layer}: {path} was to feed it and did not run before. The layer is not committed; "
                "please report this architecture"
            )
        if call.readers > 1:
            self._calls[path] = replace(call, readers=call.readers - 1)
        if path not in self._applied:
            self._applied[path] = _applied(self._model.get_submodule(path), norm, hidden)
        applied = self._applied[path]
        self._write_applied(site, layer, norm, applied)
        for quantity, values in zip(NORM_STATISTICS[norm.kind or "rms"], call.statistics, strict=True):
            self._sink.observe(norm_array_name(site, quantity), layer, values)
        output = call.output.reshape(self._shape)
        same = output.data_ptr() == hidden.data_ptr() or torch.equal(output, hidden)
        statistics = tuple(values[:, :: self._stride] for values in call.statistics)
        y = hidden[:, :: self._stride].clone()
        self._checks[site].add(Sample(layer, call.entered, statistics, y, applied, same))

    def _write_applied(self, site: str, layer: int, norm: NormInfo, applied: Applied | None) -> None:
        """Gain and bias of one layer to the sink; fill where the layer has no norm."""
        if applied is None:
            nothing = torch.full((self._shape[2],), float("nan"))
            applied = Applied(nothing, nothing, nothing)
        self._sink.observe_layer(norm_array_name(site, "gain"), layer, applied.gain)
        if norm.bias:
            self._sink.observe_layer(norm_array_name(site, "bias"), layer, applied.bias)


def _measured(norm: NormInfo, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Statistics (sequence, position) of ``x``, accumulated in float32."""
    features = x.shape[-1]
    if norm.kind == "rms":
        return (torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32).div_(features**0.5),)
    centred = x.float()
    mean = centred.mean(dim=-1)
    return mean, torch.linalg.vector_norm(centred - mean[..., None], dim=-1).div_(features**0.5)


def _applied(module: nn.Module, norm: NormInfo, hidden: torch.Tensor) -> Applied:
    """Gain and bias of ``module`` as it applies them to features like ``hidden``'s."""
    features, device = hidden.shape[-1], hidden.device
    gain = torch.ones(features, device=device)
    if norm.gain is not None:
        gain = module.get_parameter(norm.gain).detach().to(device, torch.float32) + norm.one_plus
    bias = torch.zeros(features, device=device)
    if norm.bias is not None:
        bias = module.get_parameter(norm.bias).detach().to(device, torch.float32)
    # Weights may be released, or their memory used again for the next layer's: keep copies.
    gain, bias = gain.clone(), bias.clone()
    counted = gain.abs() >= torch.finfo(hidden.dtype).smallest_normal
    return Applied(gain, bias, torch.where(counted, 1 / gain, torch.zeros_like(gain)))
