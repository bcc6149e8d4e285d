"""Outliers at known places: a norm gain raised for one feature in some layers."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator

from torch import Tensor

from .architectures import ARCHITECTURES, SITES, Architecture, Site
from .weights import WRITERS, State

Edit = Callable[[State], None]
Cell = tuple[Site, int]

DEFAULT_GAIN = 8.0
POST_NORM_GAIN = 96.0
STRENGTH = 3.0


def planted(name: str, feature: int, layers: Collection[int], site: Site, gain: float | None = None) -> Edit:
    """An edit of the in-memory state that makes `feature` an outlier in exactly `planted_cells(name, layers, site)`.

    `gain` is the effective gain, 1 + w where the model adds one: by default `DEFAULT_GAIN`. The feature's embedding is
    set to magnitude `STRENGTH`, so that its normalised value stays away from zero, and below 6; and the weights that
    read the site are divided by the gain, so that the outlier doesn't drown the residual for the layers after it.

    Where norms come after the blocks (`post_norm`), the gain is that of the norm before the site, in the layer before
    for attention, and the embedding's column before layer 0; what it multiplies may be near zero at some positions,
    so the default is `POST_NORM_GAIN`. Where moreover the raw residual enters the blocks (`carried`: OLMo 2, OLMo 3),
    no gain feeds one site alone: the feature is raised once, for the first of the layers, and stays in the residual.
    """
    architecture = ARCHITECTURES[name]
    raised = [min(layers)] if architecture.carried else sorted(layers)
    if gain is None:
        gain = POST_NORM_GAIN if architecture.post_norm else DEFAULT_GAIN

    def edit(state: State) -> None:
        column = state[architecture.embedding].select(architecture.embedding_axis, feature)
        if not architecture.post_norm:
            column.copy_(column.sign() * STRENGTH)
        for layer in raised:
            source = norm_name(architecture, layer, site)
            if source is None:
                column.mul_(gain)
                continue
            state[source][feature] = gain - 1 if architecture.one_plus_gain else gain
            if not architecture.post_norm:
                for weight in _readers(architecture, state, layer, site):
                    weight.select(-1, feature).div_(gain)

    return edit


def planted_cells(name: str, layers: Collection[int], site: Site) -> frozenset[Cell]:
    """The (site, layer) cells in which `planted` with the same arguments shows.

    The named site in the named layers; both sites where one norm feeds both; and where the raw residual enters the
    blocks, the first of the named cells and every cell after it.
    """
    architecture = ARCHITECTURES[name]
    if architecture.carried:
        order: list[Cell] = [(each, layer) for layer in range(architecture.layer_count) for each in SITES]
        return frozenset(order[order.index((site, min(layers))) :])
    shown = SITES if architecture.one_norm_for_both else (site,)
    return frozenset((each, layer) for layer in layers for each in shown)


def in_turn(*edits: Edit) -> Edit:
    """One edit that makes all of them, in order."""

    def edit(state: State) -> None:
        for each in edits:
            each(state)

    return edit


def norm_name(architecture: Architecture, layer: int, site: Site) -> str | None:
    """The in-memory name of the gain that feeds a site, or None where the embedding does."""
    norm = architecture.norm_attn if site == "ln_attn" else architecture.norm_mlp
    if norm is None:
        raise ValueError(f"{architecture.model_type} has no {site}")
    if architecture.post_norm and site == "ln_attn":
        layer -= 1
    return f"{architecture.layers}.{layer}.{norm}.weight" if layer >= 0 else None


def _readers(architecture: Architecture, state: State, layer: int, site: Site) -> Iterator[Tensor]:
    """Views, feature axis last, of the weights that multiply what the norm of a site gives out."""
    mlp = (architecture.mlp,) if architecture.mlp is not None else ()
    children = architecture.token_mixers if site == "ln_attn" else mlp
    if architecture.one_norm_for_both:
        children = architecture.token_mixers + mlp
    prefixes = tuple(f"{architecture.layers}.{layer}.{child}." for child in children)
    for name, tensor in state.items():
        if not name.startswith(prefixes) or tensor.dim() < 2 or name.endswith("bias") or re.search(WRITERS, name):
            continue
        transposed = architecture.transposed is not None and re.search(architecture.transposed, name)
        view = tensor.transpose(-1, -2) if transposed else tensor
        if view.shape[-1] == state[architecture.embedding].shape[architecture.embedding_axis]:
            yield view
