"""Which codec each array gets: what ``--codec`` asks for, and what a store that is continued has already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from schemas.codecs import CODECS, PEAKS, codec_name
from schemas.errors import InputError, SignatureError
from schemas.layout import ArraySpec
from schemas.run import Run

__all__ = ["as_stored", "codecs_in_words", "kind_of", "parse_codecs"]


def parse_codecs(text: str | None, sites: Sequence[str]) -> dict[str, str]:
    """Site or ``peaks`` -> codec, for those that ``NAME`` or ``residual=NAME,peaks=NAME`` asks one for.

    A bare name is of all ``sites`` and of the peaks; others, wherever they stand, override it. Raises InputError for
    a codec or a site that there is not.
    """
    if text is None:
        return {}
    kinds = [*sites, PEAKS]
    general: dict[str, str] = {}
    special: dict[str, str] = {}
    for part in text.split(","):
        kind, named, codec = part.strip().rpartition("=")
        if codec not in CODECS:
            raise InputError(f"--codec {text}: no codec is called {codec!r}; there are: {', '.join(CODECS)}")
        if named and kind not in kinds:
            raise InputError(f"--codec {text}: {kind!r} is not stored here; there are: {', '.join(kinds)}")
        if kind in special or (not named and general):
            raise InputError(f"--codec {text}: {kind or 'all'} is given two codecs; leave out one")
        if named:
            special[kind] = codec
        else:
            general = dict.fromkeys(kinds, codec)
    return general | special


def as_stored(arrays: Sequence[ArraySpec], run: Run, asked: Mapping[str, str]) -> tuple[ArraySpec, ...]:
    """``arrays`` with the codecs that ``run`` has them in, which is what is written whatever the default is now.

    Raises SignatureError where ``asked`` says otherwise.
    """
    found = []
    for spec in arrays:
        held = codec_name(run.array(spec.name)) if spec.name in run else spec.codec
        wanted = asked.get(kind_of(spec) or "")
        if wanted is not None and held != wanted:
            raise SignatureError(
                f"--codec: {run.path} has {spec.name} in {held or 'another codec'}, not {wanted}, and an array has one "
                "codec. Leave out --codec to continue it, or give another --store, or --overwrite to replace it"
            )
        found.append(replace(spec, codec=held or spec.codec))
    return tuple(found)


def codecs_in_words(arrays: Sequence[ArraySpec]) -> str:
    """``lz4-5-bitshuffle: ln_attn, ln_mlp, peaks``: each codec and what it is of."""
    kinds: dict[str, dict[str, None]] = {}
    for spec in arrays:
        kind = kind_of(spec)
        if kind is not None:
            kinds.setdefault(spec.codec, {})[kind] = None
    return "; ".join(f"{codec}: {', '.join(of)}" for codec, of in kinds.items())


def kind_of(spec: ArraySpec) -> str | None:
    """What ``--codec`` calls an array: a site, ``peaks``, or nothing."""
    attributes = dict(spec.attributes)
    if "bits" not in attributes:
        return None
    return PEAKS if "sign_cleared" in attributes else spec.name
