"""Where each element of a checkpoint's tensors lands in a model's parameters, found by tracing and not by rule.

A *tagged* tensor has no elements: it carries which part of which source each of its regions is. Whatever code stacks,
concatenates, splits, transposes or casts it gives tagged tensors again, so passing tags through a conversion tells
where everything goes, exactly, at any size, in a millisecond. Strides come from torch itself: every operation is also
done on tensors of the meta device, whose strides say how the real ones would lie in memory. Any operation that is not
named here computes something, or might: it raises NotPlacementError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch

__all__ = ["NotPlacementError", "Piece", "Tagged", "tagged"]

aten = torch.ops.aten


class NotPlacementError(Exception):
    """A conversion does more to tagged tensors than move and cast them."""


@dataclass(frozen=True, eq=False)
class Piece:
    """A part of a source and where it lies: ``source`` is what the caller called it, ``start`` indices in the whole.

    ``part`` is a tensor on the meta device whose offset, shape and strides, in elements, tell which part of the
    contiguous source it is; the region in the whole has its shape.
    """

    source: str
    part: torch.Tensor
    start: tuple[int, ...]

    @property
    def region(self) -> tuple[slice, ...]:
        """Where it lies in the whole: what to index that with."""
        return tuple(slice(start, start + size) for start, size in zip(self.start, self.part.shape, strict=True))


class Tagged(torch.Tensor):
    """Pieces that tile a tensor, and ``lies``, on the meta device: how the real tensor would lie in memory."""

    pieces: tuple[Piece, ...]
    lies: torch.Tensor

    @staticmethod
    def __new__(cls, pieces: Sequence[Piece], layout: torch.Tensor) -> Tagged:
        host = torch.device("cpu")
        made: Tagged = torch.Tensor._make_wrapper_subclass(
            cls, layout.shape, strides=layout.stride(), dtype=layout.dtype, device=host, requires_grad=False
        )
        made.pieces = tuple(pieces)
        made.lies = layout
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: object, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        operands = args[0] if isinstance(args[0], list | tuple) else [args[0]]
        rule = RULES.get(func)
        if rule is None or not all(isinstance(operand, Tagged) for operand in operands):
            raise NotPlacementError(f"{func} does more than move elements")
        keywords = dict(kwargs or {})
        if keywords.get("device") is not None:
            keywords["device"] = "meta"
        layouts = [operand.lies for operand in operands]
        layout = func(layouts if isinstance(args[0], list | tuple) else layouts[0], *args[1:], **keywords)
        return rule(func, operands, args[1:], layout)


def tagged(source: str, shape: Sequence[int], dtype: torch.dtype) -> Tagged:
    """A contiguous tensor that is the whole of ``source``."""
    layout = torch.empty(shape, dtype=dtype, device="meta")
    return Tagged([Piece(source, layout, (0,) * len(shape))], layout)


Rule = Callable[[Any, Sequence[Tagged], tuple[Any, ...], Any], Any]


def _kept(func: Any, operands: Sequence[Tagged], rest: tuple[Any, ...], layout: torch.Tensor) -> Tagged:
    return Tagged(operands[0].pieces, layout)


def _cast(func: Any, operands: Sequence[Tagged], rest: tuple[Any, ...], layout: torch.Tensor) -> Tagged:
    (operand,) = operands
    if layout.dtype != operand.dtype and any(piece.part.dtype != operand.dtype for piece in operand.pieces):
        raise NotPlacementError(f"cast to {operand.dtype} and then to {layout.dtype}")
    return Tagged(operand.pieces, layout)


def _viewed(func: Any, operands: Sequence[Tagged], rest: tuple[Any, ...], layout: Any) -> Any:
    """Of one piece: the same view of the source tells which part of it each result is."""
    (operand,) = operands
    if len(operand.pieces) > 1:
        raise NotPlacementError(f"{func} of what several tensors became")
    (piece,) = operand.pieces
    try:
        parts = func(piece.part, *rest)
    except RuntimeError as error:  # a view that the copy allows and the source does not
        raise NotPlacementError(f"{func}: {error}") from None
    if isinstance(layout, torch.Tensor):
        return Tagged([Piece(piece.source, parts, (0,) * parts.ndim)], layout)
    return [
        Tagged([Piece(piece.source, part, (0,) * part.ndim)], each) for part, each in zip(parts, layout, strict=True)
    ]


def _transposed(func: Any, operands: Sequence[Tagged], rest: tuple[Any, ...], layout: torch.Tensor) -> Tagged:
    def swapped(piece: Piece) -> Piece:
        start = list(piece.start)
        one, other = rest
        start[one], start[other] = start[other], start[one]
        return Piece(piece.source, piece.part.transpose(*rest), tuple(start))

    return Tagged([swapped(piece) for piece in operands[0].pieces], layout)


def _concatenated(func: Any, operands: Sequence[Tagged], rest: tuple[Any, ...], layout: torch.Tensor) -> Tagged:
    if any(operand.dtype != layout.dtype for operand in operands):
        raise NotPlacementError("tensors of several dtypes in one")
    dimension = (rest[0] if rest else 0) % layout.ndim
    pieces, begin = [], 0
    for operand in operands:
        for piece in operand.pieces:
            start = list(piece.start)
            start[dimension] += begin
            pieces.append(replace(piece, start=tuple(start)))
        begin += operand.shape[dimension]
    return Tagged(pieces, layout)


def _stacked(func: Any, operands: Sequence[Tagged], rest: tuple[Any, ...], layout: torch.Tensor) -> Tagged:
    if any(operand.dtype != layout.dtype for operand in operands):
        raise NotPlacementError("tensors of several dtypes in one")
    dimension = (rest[0] if rest else 0) % layout.ndim
    pieces = [
        Piece(
            piece.source,
            piece.part.unsqueeze(dimension),
            (*piece.start[:dimension], index, *piece.start[dimension:]),
        )
        for index, operand in enumerate(operands)
        for piece in operand.pieces
    ]
    return Tagged(pieces, layout)


RULES: Mapping[Any, Rule] = MappingProxyType(
    {
        aten.alias.default: _kept,
        aten.detach.default: _kept,
        aten.clone.default: _kept,
        aten._to_copy.default: _cast,
        aten.transpose.int: _transposed,
        aten.cat.default: _concatenated,
        aten.stack.default: _stacked,
        **dict.fromkeys(
            (
                aten.permute.default,
                aten.t.default,
                aten.select.int,
                aten.slice.Tensor,
                aten.split.Tensor,
                aten.split_with_sizes.default,
                aten.unbind.int,
                aten.squeeze.dim,
                aten.unsqueeze.default,
                aten.view.default,
                aten._unsafe_view.default,
            ),
            _viewed,
        ),
    }
)
"""What each operation does to pieces. The operands are the first argument, the rest are numbers."""
