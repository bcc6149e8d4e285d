"""What arrays and dimensions hold, in a few words: labels of plots, and of a Dataset shown in a notebook."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from schemas.layout import RESIDUAL

__all__ = ["DIMENSION_WORDS", "array_words"]

DIMENSION_WORDS: Mapping[str, str] = MappingProxyType(
    {
        "layer": "decoder layer, from 0",
        "sequence": "window of text, from 0",
        "position": "token of its sequence, from 0",
        "feature": "index in the hidden dimension",
        "rank": "expert of a token, the largest weight first",
        "expert": "expert of its layer",
    }
)

_SITES = {
    "ln_attn": "hidden state entering attention",
    "ln_mlp": "hidden state entering the MLP",
    RESIDUAL: "residual stream entering the layer",
}
_BESIDE_SITES = {
    "layer_peak": "largest magnitude over positions, {}",
    "position_peak": "largest magnitude over layers, {}",
    "nonfinite": "number of NaN and infinite values, {}",
    "rms": "root mean square of what entered the norm before it, {}",
    "mean": "mean of what entered the norm before it, {}",
    "std": "standard deviation of what entered the norm before it, {}",
    "gain": "gain of the norm before it, {}",
    "bias": "bias of the norm before it, {}",
}
_OTHERS = {
    "committed": "1 where the data of the cell is complete",
    "expert_id": "experts that the token went to",
    "expert_weight": "weights of those experts",
    "expert_peak": "largest magnitude of the expert's output",
    "token_id": "token",
    "token_mask": "bits: 1 special token, 2 start of a document",
    "token_nll": "next-token loss",
    "token_text": "text of each token by its id: JSON, a byte each",
}


def array_words(name: str, sites: Iterable[str]) -> str | None:
    """What the array ``name`` of a run with these ``sites`` holds; None for one that is not of this version.

    >>> array_words("ln_mlp_layer_peak", ["ln_attn", "ln_mlp"])
    'largest magnitude over positions, hidden state entering the MLP'
    """
    if name in _OTHERS:
        return _OTHERS[name]
    for site in sites:
        words = _SITES.get(site, f"hidden state at site {site}")
        if name == site:
            return words
        if (beside := _BESIDE_SITES.get(name.removeprefix(f"{site}_"))) is not None:
            return beside.format(words)
    return None
