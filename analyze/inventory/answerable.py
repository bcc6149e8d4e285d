"""What a store can be asked: which questions it answers, from what, and why not the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction

from analyze.gain import require_gains
from analyze.statistics.selection import Chosen, Selection, choose
from analyze.statistics.tensors import find_tensors
from schemas.errors import OutlierFeaturesError
from schemas.layout import layer_peak_name, position_peak_name
from schemas.run import Run

__all__ = ["Answerable", "answerable"]


@dataclass(frozen=True)
class Answerable:
    """A kind of question, the flags that ask it, whether the store answers it, and from what, how far, or why not."""

    question: str
    flags: str
    possible: bool
    words: str


def answerable(run: Run, complete: Sequence[int]) -> tuple[Answerable, ...]:
    """All kinds of questions, in one order, for ``run``, of which the sequences ``complete`` are there."""
    if not complete:
        why = "no sequence is complete yet"
        return tuple(Answerable(question, flags, False, why) for question, flags, _ in _QUESTIONS)
    chosen = choose(run, Selection(sequences=tuple(complete)), slices=False)
    return tuple(Answerable(question, flags, *look(run, chosen)) for question, flags, look in _QUESTIONS)


Look = Callable[[Run, Chosen], tuple[bool, str]]


def _outliers(run: Run, chosen: Chosen) -> tuple[bool, str]:
    peaks = [name for array in chosen.arrays for name in (layer_peak_name(array), position_peak_name(array))]
    absent = [name for name in peaks if name not in run]
    if not absent:
        return True, "from the stored peaks, at any magnitude"
    return _hits(run, chosen)


def _hits(run: Run, chosen: Chosen) -> tuple[bool, str]:
    if not run.retention.slices:
        return False, "the store holds peaks only: capture the model again with --keep slices"
    if run.retention.floor is not None:
        return True, f"from the slices, at magnitudes from {run.retention.floor} on"
    return True, "from the slices, at any magnitude"


def _gain(run: Run, chosen: Chosen) -> tuple[bool, str]:
    possible, words = _hits(run, chosen)
    if not possible:
        return possible, words
    try:
        least = require_gains(run, chosen)
    except OutlierFeaturesError as error:
        return False, str(error).partition(": leave out")[0]
    if run.retention.floor is not None:
        words = f"from the slices, at magnitudes from {_rounded_up(Fraction(run.retention.floor) / least)} on"
    return possible, words


def _rounded_up(value: Fraction) -> str:
    """Four figures of it and no less than it is, so that the magnitude itself can be asked."""
    context = Context(prec=4, rounding=ROUND_CEILING)
    return f"{context.divide(Decimal(value.numerator), Decimal(value.denominator)).normalize():f}"


def _whole(run: Run) -> str | None:
    """Why values below every threshold are not there; None where they are."""
    if not run.retention.slices:
        return "the store holds peaks only: capture the model again with --keep slices"
    if run.retention.floor is not None:
        return f"slices are zero below {run.retention.floor}: capture the model again with --keep slices"
    return None


def _of_norms(run: Run, chosen: Chosen) -> tuple[bool, str]:
    why = _whole(run)
    return (True, f"from the slices of {', '.join(chosen.sites)}") if why is None else (False, why)


def _of_residual(run: Run, chosen: Chosen) -> tuple[bool, str]:
    why = _whole(run)
    if why is not None:
        return False, why
    tensors, reasons = find_tensors(run, chosen, ("residual",))
    if not tensors:
        return False, f"{'; '.join(reasons)}: capture the model again with --sites ln_attn,ln_mlp,residual"
    said = [f"{tensor.label}{', approximately' if tensor.approximate else ''}" for tensor in tensors]
    return True, "; ".join([", ".join(said), *reasons])


def _by_expert(run: Run, chosen: Chosen) -> tuple[bool, str]:
    if "expert_id" not in run:
        return False, _no_experts(run)
    return _hits(run, chosen)


def _super_experts(run: Run, chosen: Chosen) -> tuple[bool, str]:
    return (True, "from the largest output of each expert") if "expert_peak" in run else (False, _no_experts(run))


def _no_experts(run: Run) -> str:
    if not run.info.model.experts:
        return "the model has no experts"
    routing = run.info.routing
    return (routing.absent or routing.peak_absent if routing else None) or "routing was not captured"


def _questions() -> Iterator[tuple[str, str, Look]]:
    yield "outliers, sweeps", "--magnitude", _outliers
    yield "chance, overlap, saturation", "--null, --overlap, --saturation", _outliers
    yield "hits, ties, quartiles", "--details", _hits
    yield "other knobs and ranges", "--positions-range, ...", _hits
    yield "units of gain", "--in-gain-units", _gain
    yield "hits by layer and position", "--by layer, --by position", _hits
    yield "hits by expert", "--by expert", _by_expert
    yield "criteria of norm outputs", "--criteria", _of_norms
    yield "criteria of the residual", "--criteria", _of_residual
    yield "super experts", "--criteria super-experts", _super_experts
    yield "quantisation error", "--quantisation", _of_norms


_QUESTIONS = tuple(_questions())
