"""Which norm feeds each site, and by what rule it computes, both found by trying: no norm is known by its name.

The norm of a site is the module, in the same layer, whose output is the very tensor that enters there. Its rule is
found by feeding rows to a copy of it with known parameters, and asking which rule gives the same numbers.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from capture.entrances import Entrance, trace_entrances
from capture.sites import Site, decoder_layers
from schemas.errors import CaptureError, InputError
from schemas.layout import RESIDUAL
from schemas.provenance import NormInfo

__all__ = ["norm_rule", "with_norms"]

ROW_MAGNITUDES = (1.0, 1e-3)
"""Of the rows that are fed to a norm: beside the small ones eps shows."""

LARGEST_EPS = 0.1

USUAL_EPS = (1e-5, 1e-6)
"""Of norms that have theirs in their code (OLMo's)."""

TOLERANCE = 1e-4
"""Of a rule's output, near 1, against the module's in float32; other rules and other eps are off by a tenth or more."""


def with_norms(model: Any, sites: Sequence[Site]) -> tuple[Site, ...]:
    """``sites`` of a ``model`` on the meta device with their norms, and the residual an alias where it is one.

    A site whose layers have norms of one rule gets a NormInfo of it; any other one without a kind, that says why.
    Raises InputError where the residual is wanted and is nothing that the store can hold.
    """
    try:
        entrances = trace_entrances(model, sites)
    except CaptureError as error:
        return tuple(site if site.alias or site.name == RESIDUAL else _without(site, str(error)) for site in sites)
    found: list[Site] = []
    for site in sites:
        if site.name == RESIDUAL:
            found.append(_residual(model, site, found, entrances))
        else:
            found.append(site if site.alias else replace(site, norm=_norm_of(model, site, entrances)))
    return tuple(found)


def _without(site: Site, reason: str) -> Site:
    return replace(site, norm=NormInfo(reason=reason))


def _residual(model: Any, site: Site, others: Sequence[Site], entrances: dict[tuple[str, int], Entrance]) -> Site:
    stored = [other for other in others if other.alias is None]
    features, dtype = int(model.config.get_text_config().hidden_size), model.dtype
    for layer, path in enumerate(site.modules):
        entrance = entrances[site.name, layer]
        shape, kind = entrance.shape, str(entrance.dtype).removeprefix("torch.")
        if len(shape) != 3 or shape[-1] != features:
            raise InputError(
                f"--sites {RESIDUAL}: what enters {path} has the shape {shape} for 5 sequences of 3 positions, no "
                f"(sequence, position, feature): leave {RESIDUAL} out"
            )
        if entrance.dtype != dtype:
            raise InputError(
                f"--sites {RESIDUAL}: what enters {path} is {kind}, and the store would keep "
                f"{str(dtype).removeprefix('torch.')}: choose --dtype {kind}, or leave {RESIDUAL} out"
            )
    for other in stored:
        shared = [
            entrances[site.name, layer].identity == entrances[other.name, layer].identity
            for layer in range(len(site.modules))
        ]
        if all(shared):
            return replace(site, alias=other.name)
    return site


def _norm_of(model: Any, site: Site, entrances: dict[tuple[str, int], Entrance]) -> NormInfo:
    prefix = decoder_layers(model)[0]
    features = int(model.config.get_text_config().hidden_size)
    modules: list[str | None] = []
    rules: list[NormInfo] = []
    reasons: dict[str, None] = {}
    for layer, path in enumerate(site.modules):
        entrance, where = entrances[site.name, layer], _starred(path, prefix)
        made_by = entrance.made_by
        rule = None
        if entrance.identity == entrances[RESIDUAL, layer].identity:
            reasons[f"what enters {where} is the layer's own input"] = None
        elif made_by is None:
            reasons[f"what enters {where} is no module's output"] = None
        elif not made_by.startswith(f"{prefix}.{layer}."):
            reasons[f"what enters {where} is the output of {made_by}, outside its layer"] = None
        else:
            module = model.get_submodule(made_by)
            rule = norm_rule(module, features)
            if rule is None:
                kind = type(module).__name__
                reasons[f"{_starred(made_by, prefix)} ({kind}) follows no rule that is known here"] = None
        modules.append(made_by if rule else None)
        if rule is not None and rule not in rules:
            rules.append(rule)
    if len(rules) > 1:
        return NormInfo(reason="its layers' norms differ in their rules")
    found = rules[0] if rules else NormInfo()
    return found.model_copy(update={"modules": modules if rules else [], "reason": "; ".join(reasons) or None})


def _starred(path: str, prefix: str) -> str:
    """``model.layers.3.mlp`` as ``model.layers.*.mlp``."""
    if not path.startswith(f"{prefix}."):
        return path
    return f"{prefix}.*.{path.removeprefix(prefix).lstrip('.').split('.', 1)[-1]}"


def norm_rule(module: nn.Module, features: int) -> NormInfo | None:
    """The rule of a norm over ``features``, None where ``module`` follows none of those that NormInfo can say.

    y = z * gain + bias, with z = x / sqrt(mean(x^2) + eps) or (x - mean) / sqrt(variance + eps). Its parameters are
    taken for gain and bias, w and 1 + w, in every way that uses them all.
    """
    if any(True for _ in module.buffers()) or any(p.shape != (features,) for p in module.parameters()):
        return None
    generator = torch.Generator().manual_seed(0)
    probe = copy.deepcopy(module).to_empty(device="cpu").float().eval()
    for parameter in probe.parameters():
        parameter.data = torch.rand(features, generator=generator) + 0.5
    rows = torch.stack([(torch.randn(features, generator=generator) + 0.5) * size for size in ROW_MAGNITUDES])
    try:
        with torch.no_grad():
            given = probe(rows[None])
    except Exception:  # no norm: it takes something else
        return None
    if not isinstance(given, torch.Tensor) or given.shape != (1, *rows.shape):
        return None
    x, y = rows.double(), given[0].double()
    parameters = {name: parameter.double() for name, parameter in probe.named_parameters()}
    eps = {
        float(value): None for value in vars(module).values() if isinstance(value, float) and 0 < value < LARGEST_EPS
    }
    kinds: tuple[Literal["rms", "layer"], ...] = ("rms", "layer")
    for kind, value in itertools.product(kinds, [*eps, *USUAL_EPS, 0.0]):
        centred = x if kind == "rms" else x - x.mean(-1, keepdim=True)
        z = centred / (centred.pow(2).mean(-1, keepdim=True) + value).sqrt()
        for gain, bias, one_plus in _roles(list(parameters)):
            factor = parameters[gain] + one_plus if gain else torch.ones(features, dtype=torch.float64)
            expected = z * factor + (parameters[bias] if bias else 0)
            if bool(((expected - y).abs() <= TOLERANCE * (1 + expected.abs())).all()):
                return NormInfo(kind=kind, eps=value, gain=gain, bias=bias, one_plus=one_plus)
    return None


def _roles(names: list[str]) -> Iterator[tuple[str | None, str | None, bool]]:
    """(gain, bias, one plus) in every way in which all parameters are used."""
    if not names:
        yield None, None, False
    if len(names) == 1:
        yield from ((names[0], None, False), (names[0], None, True), (None, names[0], False))
    if len(names) == 2:
        for gain, bias in (names, names[::-1]):
            yield from ((gain, bias, False), (gain, bias, True))
