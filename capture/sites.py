"""Where a block's token mixer and its MLP take their input, on any decoder architecture.

The sites are module *inputs* ("the tensor that enters"), not norms found by name: in a pre-norm model that tensor is
the norm's output bit for bit, and in a post-norm or sandwich-norm model it still is what the block computes with.
The residual is the input of the decoder layer itself; it is a site where it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from schemas.errors import InputError
from schemas.layout import RESIDUAL
from schemas.provenance import NormInfo

__all__ = ["MLPS", "SITES", "TOKEN_MIXERS", "Site", "decoder_layers", "find_sites"]

SITES = ("ln_attn", "ln_mlp")
"""The sites that are captured unless others are asked for, in their order; the residual comes after them."""

TOKEN_MIXERS = (
    "self_attn",
    "linear_attn",
    "self_attention",
    "attn",
    "attention",
    "multi_head_attention",
    "temporal_block",
    "mixer",
    "mamba",
    "conv",
    "short_conv",
)
"""Names of a decoder layer's child that mixes tokens; the first that a layer has is its ``ln_attn``."""

MLPS = ("mlp", "feed_forward", "block_sparse_moe", "ffn", "mlp_block", "moe", "fc1")
"""Names of a decoder layer's child that is its MLP or the MLP's first linear; the first found is its ``ln_mlp``."""


@dataclass(frozen=True)
class Site:
    """One site of a model: its name, one module path per layer, the site whose tensor it shares, if any, and what
    is known of the norm that feeds it (``capture.norms`` finds out)."""

    name: str
    modules: tuple[str, ...]
    alias: str | None = None
    norm: NormInfo | None = None


def decoder_layers(model: Any) -> tuple[str, nn.ModuleList]:
    """(path, list) of the decoder layers: the ModuleList whose element class is in ``_no_split_modules``.

    Looked for under ``get_decoder()``; the longest where several qualify. Where a model names no such classes (BioGPT,
    GPT-1), the one ModuleList as long as its configuration says. Raises InputError with the module lists that there are
    where none qualifies.
    """
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if isinstance(decoder, nn.Linear):
        decoder = model  # ModernBERT's output head is called so
    classes = set(model._no_split_modules or ())
    prefix = next((name for name, module in model.named_modules() if module is decoder), "")
    lists = [(name, module) for name, module in decoder.named_modules() if isinstance(module, nn.ModuleList)]
    found = [
        (name, module) for name, module in lists if len(module) and any(type(m).__name__ in classes for m in module)
    ]
    if not classes:
        config = model.config.get_text_config() if hasattr(model, "config") else None
        # Where there is an encoder beside it (Blenderbot), num_hidden_layers counts that one's.
        layers_in_all = getattr(config, "decoder_layers", None) or getattr(config, "num_hidden_layers", None)
        found = [pair for pair in lists if len(pair[1]) == layers_in_all]
        found = found if len(found) == 1 else []
    if not found:
        seen = "; ".join(f"{name} of {len(m)} {type(m[0]).__name__ if len(m) else ''}" for name, m in lists) or "none"
        raise InputError(
            f"{type(model).__name__}: no list of decoder layers found (no ModuleList of {sorted(classes)}). "
            f"Module lists: {seen}"
        )
    name, layers = max(found, key=lambda pair: len(pair[1]))
    return ".".join(part for part in (prefix, name) if part), layers


def find_sites(model: Any, wanted: Sequence[str] | None = None) -> tuple[Site, ...]:
    """The sites of ``model`` in the order of ``SITES``, all that it has or those ``wanted``, the residual last.

    A layer with a single norm feeds that norm's output to both its token mixer and its MLP (Cohere, Phi, Falcon,
    GPT-J): ``ln_mlp`` is then an alias of ``ln_attn``, which the capture verifies. Raises InputError with the layer's
    modules where a layer lacks a wanted site.
    """
    unknown = [site for site in wanted or () if site not in (*SITES, RESIDUAL)]
    if unknown or (wanted is not None and len(set(wanted)) < max(1, len(wanted))):
        problem = f"no site is called {unknown[0]!r}" if unknown else "a site is named twice"
        raise InputError(f"--sites {','.join(wanted or ())}: {problem}; sites: {', '.join((*SITES, RESIDUAL))}")
    path, layers = decoder_layers(model)
    candidates = {"ln_attn": TOKEN_MIXERS, "ln_mlp": MLPS}
    sites: list[Site] = []
    for name in SITES:
        if wanted is not None and name not in wanted:
            continue
        modules = [_child(layer, candidates[name]) for layer in layers]
        if wanted is None and name == "ln_mlp" and not any(modules):
            continue  # a model without MLPs, such as Mamba
        if None in modules:
            index = modules.index(None)
            children = dict(layers[index].named_children())
            several = [child for child in candidates[name] if isinstance(children.get(child), nn.ModuleList)]
            why = f"looked for {', '.join(candidates[name])}"
            if several:
                why = f"its {several[0]} is a list of {len(children[several[0]])}, and a site is one module's input"  # type: ignore[arg-type]
            rest = [site for site in SITES if site != name and all(_child(each, candidates[site]) for each in layers)]
            raise InputError(
                f"{type(model).__name__}: layer {index} ({type(layers[index]).__name__}) has no module for site {name} "
                f"({why}). Its modules: {', '.join(f'{child}: {type(m).__name__}' for child, m in children.items())}. "
                f"Capture the rest with --sites {','.join(rest or [RESIDUAL])}"
            )
        paths = tuple(f"{path}.{index}.{child}" for index, child in enumerate(modules))
        shares = name == "ln_mlp" and any(s.name == "ln_attn" for s in sites) and all(map(_has_one_norm, layers))
        sites.append(Site(name, paths, "ln_attn" if shares else None))
    if wanted is not None and RESIDUAL in wanted:
        sites.append(Site(RESIDUAL, tuple(f"{path}.{index}" for index in range(len(layers)))))
    return tuple(sites)


def _child(layer: nn.Module, names: Sequence[str]) -> str | None:
    children = {name for name, module in layer.named_children() if not isinstance(module, nn.ModuleList)}
    return next((name for name in names if name in children), None)


def _has_one_norm(layer: nn.Module) -> bool:
    return sum("norm" in type(module).__name__.lower() for module in layer.children()) == 1
