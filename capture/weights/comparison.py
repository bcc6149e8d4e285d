"""The first layer of each shape, compared bit for bit with what transformers' converter makes of the same tensors.

In little memory: where tags say that some of a group's tensors, alone, become a block of what all of them become, such
parts are compared one after the other. Every tensor is read once, and placed and converted from the same memory.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from capture.weights.converter import Converter
from capture.weights.placement import Piece, Tagged, tagged
from capture.weights.reading import Views, place, same_bits
from capture.weights.recipes import Group
from capture.weights.shards import Shards
from schemas.one_ahead import one_ahead

__all__ = ["Comparison"]

PART_BYTES = 16 * 2**20

Regions = dict[str, tuple[slice, ...]]


class Comparison:
    """Marks recipes as checked, or takes them back so that the converter is used, and says so."""

    def __init__(self, converter: Converter, shards: Shards) -> None:
        self._converter = converter
        self._shards = shards

    def place(self, group: Group, views: Views) -> None:
        """Read a group that is placed, put it into ``views`` as its pieces say, and compare."""
        wrong = self._differing(group, views)
        if wrong is None:
            group.recipe.checked = True
        else:
            self._take_back(group, wrong)

    def _differing(self, group: Group, views: Views) -> str | None:
        """``place`` without its consequences: the first parameter that differs. The next part is read meanwhile."""

        def placed(part: tuple[list[int], Regions]) -> tuple[dict[str, torch.Tensor], Regions]:
            """A part's tensors by name, and where they are now."""
            chosen, regions = part
            tensors = {position: self._shards.read(group.names[position]) for position in chosen}
            place(group, tensors, views)
            return {group.names[position]: tensor for position, tensor in tensors.items()}, regions

        for tensors, regions in one_ahead(placed, self._parts(group)):
            shapes = {group.prefix + name: views[name][region].shape for name, region in regions.items()}
            converted = self._converter.convert(tensors, shapes=shapes).parameters
            for name, region in regions.items():
                if not same_bits(views[name][region], converted.get(group.prefix + name)):
                    return name
        return None

    def unpacked(self, group: Group, views: Views) -> None:
        """Compare the first and the last expert of a group that was unpacked: for all, the routine takes minutes."""
        (target,) = group.recipe.targets
        for expert in {0, target.shape[0] - 1}:
            tensors = {}
            for name in group.names:
                tensor = torch.empty((1, *self._shards.tensors[name].shape[1:]), dtype=torch.uint8)
                self._shards.read_into(name, tensor.view(-1).numpy().data, expert * tensor.numel())
                tensors[name] = tensor
            one = views[target.name][expert : expert + 1]
            name = group.prefix + target.name
            if not same_bits(one, self._converter.convert(tensors, shapes={name: one.shape}).parameters.get(name)):
                self._take_back(group, target.name)
                return
        group.recipe.checked = True

    def _take_back(self, group: Group, name: str) -> None:
        group.recipe.placed = group.recipe.packed = False
        print(
            f"capture: {group.prefix}{name}, read in place, differs from transformers' own conversion, which is used "
            "from here on: as right, and slower. Please report this model",
            file=sys.stderr,
            flush=True,
        )

    def _parts(self, group: Group) -> Iterator[tuple[list[int], Regions]]:
        """Positions in the group that become something alone, and which regions of the targets: all in turn."""
        parts: list[tuple[list[int], Regions]] = []
        chosen: list[int] = []
        size = 0
        # What belongs to one expert has the same numbers in its name; the digit of Mixtral's w1 is none.
        numbered: dict[tuple[str, ...], list[int]] = {}
        for position, name in enumerate(group.names):
            numbers = tuple(word for word in name.split(".") if word.isdigit())
            numbered.setdefault(numbers, []).append(position)
        left = len(numbered)
        for positions in numbered.values():
            left -= 1
            chosen = sorted(chosen + positions)
            size += sum(self._shards.tensors[group.names[position]].size_bytes for position in positions)
            if size < PART_BYTES and left:
                continue
            regions = self._regions(group, chosen)
            if regions is None:
                parts = [(list(range(len(group.names))), _everything(group))]
                break
            parts.append((chosen, regions))
            chosen, size = [], 0
        return iter(parts)

    def _regions(self, group: Group, chosen: list[int]) -> Regions | None:
        """Where in each target the converter's result for ``chosen`` alone belongs; None where that is no block."""
        stored = {position: self._shards.tensors[group.names[position]] for position in chosen}
        tags = {each.name: tagged(str(position), each.shape, each.dtype) for position, each in stored.items()}
        shapes = self._converter.convert(tags).shapes  # smaller ones than the model's, where these are some experts
        results = self._converter.convert(tags, shapes=shapes).parameters
        regions: Regions = {}
        for target in group.recipe.targets:
            alone = results.get(group.prefix + target.name)
            among = [piece for piece in target.pieces if int(piece.source) in stored]
            if not isinstance(alone, Tagged):
                return None
            if {_part(piece) for piece in alone.pieces} != {_part(piece) for piece in among}:
                return None
            where = {_part(piece): piece.start for piece in among}
            shifts = {
                tuple(there - here for here, there in zip(piece.start, where[_part(piece)], strict=True))
                for piece in alone.pieces
            }
            if len(shifts) != 1 or len(where) != len(among):
                return None
            regions[target.name] = tuple(slice(a, a + n) for a, n in zip(shifts.pop(), alone.shape, strict=True))
        return regions


def _everything(group: Group) -> Regions:
    return {target.name: (slice(None),) * len(target.shape) for target in group.recipe.targets}


def _part(piece: Piece) -> tuple[object, ...]:
    return piece.source, piece.part.storage_offset(), tuple(piece.part.shape), piece.part.stride()
