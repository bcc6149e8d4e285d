"""What is observed of the norms that feed the sites: each token's statistics, gain and bias, and a check of it all.

The check is arithmetic that must hold whatever the model computes: with y the site's stored values and x what entered
its norm, the mean of (y / gain)^2 is rms(x)^2 / (rms(x)^2 + eps) up to the rounding of y. A hook that sees another
tensor, or a gain that is not the one applied, breaks it, and the run stops before anything of the batch is committed.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import torch
from torch import nn

from capture.plan import CapturePlan
from capture.sink import Sink
from schemas.errors import CaptureError
from schemas.layout import NORM_STATISTICS, norm_array_name
from schemas.provenance import NormInfo

__all__ = ["NormHooks"]

CHECKED_POSITIONS = 8
"""Of each sequence, evenly spread from the first, where massive activations live."""

ROUNDINGS = 3
"""Most roundings to the model's dtype between z and y: norms round z, then its product with the gain; one to spare."""

SLACK = 64 * 2.0**-24
"""Relative error of z from sums and square roots in float32."""


@dataclass(frozen=True)
class _Call:
    """One call of a norm: statistics per token; at the checked positions the z that they make, and by how much more
    than z its rounding grows; the output, and how many sites it is still to enter."""

    statistics: tuple[torch.Tensor, ...]
    z: torch.Tensor
    offset: torch.Tensor | float
    output: torch.Tensor
    readers: int


@dataclass(frozen=True)
class _Applied:
    """Effective gain and bias (feature,) of one norm, in float32; ``reciprocal`` is 0 for a gain of 0."""

    gain: torch.Tensor
    bias: torch.Tensor
    reciprocal: torch.Tensor


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
        self._applied: dict[str, _Applied] = {}
        self._checks: list[tuple[str, int, torch.Tensor, bool]] = []
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
        self._checks.clear()
        self._watching = True

    def check(self) -> None:
        """Raise CaptureError where what entered a site since ``expect`` is not its norm's output."""
        self._watching = False
        if not self._checks:
            return
        device = self._checks[0][2].device
        figures = torch.stack([figure.to(device) for _, _, figure, _ in self._checks]).cpu()
        found, expected, allowed = figures.unbind(1)  # each (cell, sequence, position)
        # A sum that overflowed, or a NaN of the model's own: those are counted in SITE_nonfinite.
        wrong = ((found - expected).abs() > allowed) & found.isfinite() & expected.isfinite()
        for cell, (site, layer, _, same) in enumerate(self._checks):
            path = self._norms[site].modules[layer]
            if bool(wrong[cell].any()):
                sequence, position = map(int, wrong[cell].nonzero()[0])
                is_, due, within = (float(values[cell, sequence, position]) for values in (found, expected, allowed))
                raise CaptureError(
                    f"{site} of layer {layer}: at position {position * self._stride} the mean of (y / gain)^2 is "
                    f"{is_:.6g}, and by what entered {path} it is {due:.6g} (rounding: {within:.2g}). The values are "
                    "not this norm's output. The layer is not committed; please report this architecture"
                )
            if not same:
                raise CaptureError(
                    f"{site} of layer {layer}: what entered is not what came out of {path}. The layer is not "
                    "committed; please report this architecture"
                )

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
                self._calls[path] = _Call(*self._measured(norm, entered.reshape(self._shape)), output, readers)

        return hook

    def _measured(
        self, norm: NormInfo, x: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor | float]:
        """Statistics (batch, position) of ``x``; z (batch, checked position, feature); what z's rounding grows by."""
        features, checked, eps = x.shape[-1], slice(None, None, self._stride), norm.eps or 0.0
        if norm.kind == "rms":
            rms = torch.linalg.vector_norm(x, dim=-1, dtype=torch.float32) / features**0.5
            scale = (rms[:, checked].square() + eps).rsqrt()[..., None]
            return (rms,), x[:, checked].float() * scale, 0.0
        centred = x.float()
        mean = centred.mean(dim=-1)
        std = torch.linalg.vector_norm(centred - mean[..., None], dim=-1) / features**0.5
        scale = (std[:, checked].square() + eps).rsqrt()[..., None]
        offset = mean[:, checked, None]
        return (mean, std), (centred[:, checked] - offset) * scale, (offset * scale).abs()

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
        self._checks.append((site, layer, self._figures(call, applied, hidden), same))

    def _figures(self, call: _Call, applied: _Applied, hidden: torch.Tensor) -> torch.Tensor:
        """(3, batch, checked position): mean of (y / gain)^2 as found, as expected, and how far apart they may be."""
        about = torch.finfo(hidden.dtype)
        reciprocal = applied.reciprocal
        kept = (reciprocal != 0).float()
        z, size = call.z * kept, call.z.abs() * kept
        found = (hidden[:, :: self._stride].float() - applied.bias) * reciprocal
        added = (applied.bias * reciprocal).abs()
        error = ROUNDINGS * about.eps / 2 * (size + 2 * added) + SLACK * (size + call.offset * kept)
        error += about.smallest_normal * about.eps * (kept + reciprocal.abs())  # the least that y can be, or lose
        return torch.stack([found.square().mean(-1), z.square().mean(-1), ((2 * size + error) * error).mean(-1)])

    def _write_applied(self, site: str, layer: int, norm: NormInfo, applied: _Applied | None) -> None:
        """Gain and bias of one layer to the sink; fill where the layer has no norm."""
        nothing = torch.full((self._shape[2],), float("nan"))
        self._sink.observe_layer(norm_array_name(site, "gain"), layer, applied.gain if applied else nothing)
        if norm.bias:
            self._sink.observe_layer(norm_array_name(site, "bias"), layer, applied.bias if applied else nothing)


def _applied(module: nn.Module, norm: NormInfo, hidden: torch.Tensor) -> _Applied:
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
    return _Applied(gain, bias, torch.where(counted, 1 / gain, torch.zeros_like(gain)))
