"""How each group of a checkpoint's tensors becomes parameters, learned from transformers' converter and never typed.

Everything here comes from names, shapes and dtypes: no tensor is read. So what a checkpoint lacks is known before
anything is loaded or written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch

from capture.sites import decoder_layers
from capture.weights.converter import Converter
from capture.weights.placement import NotPlacementError, Piece, Tagged, tagged
from capture.weights.quantisation import foreign_dtype, uneven_blocks
from capture.weights.shards import Shards, StoredTensor
from schemas.errors import InputError

__all__ = ["Group", "Recipe", "Recipes", "Target"]


@dataclass(frozen=True)
class Target:
    """A parameter: its name within the layer, shape, dtype, and the pieces that tile it where it is placed.

    A piece's source is the position in the group, in digits.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[Piece, ...] = ()


@dataclass
class Recipe:
    """What groups of one signature become: ``targets``, empty where ``wrong`` says why nothing fits.

    ``at`` is the position of the tensor that is wrong, where it is known which.
    ``placed``: their elements are moved and cast, no more. ``packed``: MXFP4 blocks and scales. Otherwise the converter
    computes. ``checked`` is set when a layer of this recipe has been compared with the converter's own result.
    """

    targets: tuple[Target, ...] = ()
    placed: bool = False
    packed: bool = False
    wrong: str | None = None
    at: int = 0
    checked: bool = False


@dataclass(frozen=True)
class Group:
    """Tensors of a checkpoint that become parameters together, in the converter's order, and how.

    ``prefix`` and a target's name make the parameter's full name.
    """

    names: tuple[str, ...]
    prefix: str
    recipe: Recipe


@dataclass
class Recipes:
    """The groups of a checkpoint by layer, None for those outside any layer; each shape of layer is learned once."""

    converter: Converter
    shards: Shards
    groups: dict[int | None, list[Group]] = field(init=False)

    def __post_init__(self) -> None:
        self.path, layers = decoder_layers(self.converter.model)
        inside = re.compile(re.escape(self.path) + r"\.(\d+)\.")
        self.states: dict[int | None, dict[str, torch.Tensor]] = {None: {}, **{i: {} for i in range(len(layers))}}
        for name, tensor in self.converter.state.items():
            match = inside.match(name)
            self.states[int(match[1]) if match else None][name[match.end() :] if match else name] = tensor
        self.groups = {index: [] for index in self.states}
        learned: dict[object, Recipe] = {}
        shapes = {index: _signature(state.items()) for index, state in self.states.items()}
        for target, names in self.converter.groups(self.shards.tensors).items():
            match = inside.match(target)
            index, prefix = (int(match[1]), match[0]) if match else (None, "")
            stored = [self.shards.tensors[name] for name in names]
            signature = (shapes[index], target.removeprefix(prefix), _signature((each.name, each) for each in stored))
            if signature not in learned:
                learned[signature] = self._learn(prefix, stored, self.converter.state[target].dtype)
            self.groups[index].append(Group(tuple(names), prefix, learned[signature]))

    def names(self, index: int | None) -> list[str]:
        """The checkpoint's tensors that layer ``index`` is made of."""
        return [name for group in self.groups[index] for name in group.names]

    def _learn(self, prefix: str, stored: list[StoredTensor], wanted: torch.dtype) -> Recipe:
        """What becomes of ``stored``, where the model has parameters of dtype ``wanted``."""
        quantisation = self.converter.quantisation
        dtypes = {each.name: each.dtype for each in stored} if wanted.is_floating_point else {}
        wrong = foreign_dtype(quantisation, dtypes) or uneven_blocks(
            self.converter.config, {each.name: each.shape for each in stored}
        )
        if wrong is not None:
            return _wrong(stored, *wrong)
        tags = {each.name: tagged(str(i), each.shape, each.dtype) for i, each in enumerate(stored)}
        try:
            traced = self.converter.convert(tags)
        except NotPlacementError:  # others the converter has caught, and reports
            traced = None
        if traced is not None and not traced.wrong and _are_placed(traced.parameters):
            wrong = foreign_dtype(None, dtypes)  # what is only moved and cast is no quantised weight
            return Recipe(_targets(traced.parameters, prefix), placed=True) if wrong is None else _wrong(stored, *wrong)
        shapes = {each.name: torch.empty(each.shape, dtype=each.dtype, device="meta") for each in stored}
        converted = self.converter.convert(shapes, device="meta")
        if converted.wrong:
            return Recipe(wrong=next(iter(converted.wrong.values())))
        targets = _targets(converted.parameters, prefix)
        return Recipe(targets, packed=quantisation == "mxfp4" and _is_packed(stored, targets))

    def require_complete(self, checkpoint: object) -> None:
        """Raise InputError unless every parameter of the model comes out of the checkpoint, in its shape.

        It names the first tensor at fault and its file. What transformers ties may lack one of the two.
        """
        faults = list(self._faults())
        if faults:
            more = f" (and {len(faults) - 1:,} more)" if len(faults) > 1 else ""
            raise InputError(f"{checkpoint}: the checkpoint does not fill the model: {faults[0]}{more}")

    def _faults(self) -> Iterator[str]:
        tied = dict(getattr(self.converter.model, "all_tied_weights_keys", None) or {})
        for index, state in self.states.items():
            made = {target.name for group in self.groups[index] for target in group.recipe.targets}
            for group in self.groups[index]:
                if group.recipe.wrong is not None:
                    yield self._fault(index, group)
            blamed = {self._target(name) for group in self.groups[index] if group.recipe.wrong for name in group.names}
            for name in state:
                full = name if index is None else f"{self.path}.{index}.{name}"
                partners = {tied.get(full), *(one for one, other in tied.items() if other == full)} - {None}
                if name not in made and full not in blamed and not (index is None and partners & made):
                    yield from (f"{missing} is missing" for missing in self._expected(index, name) or [full])

    def _target(self, name: str) -> str:
        return next(iter(self.converter.groups([name])))

    def _fault(self, index: int | None, group: Group) -> str:
        """What is wrong with a group that fits no parameter, by comparison with the same group of other layers."""
        stored = [self.shards.tensors[name] for name in group.names]
        sound = self._expected(index, self._target(group.names[0]).removeprefix(f"{self.path}.{index}."))
        if sound is not None:
            missing = [name for name in sound if name not in self.shards.tensors]
            if missing:
                return f"{missing[0]} is missing"
            for each in stored:
                if each.name in sound and each.shape != sound[each.name]:
                    return _misshapen(each, sound[each.name])
        if len(stored) == 1:
            target = self._target(stored[0].name)
            wanted = tuple(self.converter.state[target].shape)
            if stored[0].shape != wanted:
                return _misshapen(stored[0], wanted)
        wrong = stored[group.recipe.at]
        return f"{wrong.name} in {wrong.file}: {group.recipe.wrong}"

    def _expected(self, index: int | None, name: str) -> dict[str, tuple[int, ...]] | None:
        """Checkpoint names and shapes of what makes parameter ``name`` of layer ``index``, as another layer has it."""
        if index is None:
            return None
        for other, groups in self.groups.items():
            if other in (None, index) or self.states[other].get(name) is None:
                continue
            if self.states[other][name].shape != self.states[index][name].shape:
                continue
            for group in groups:
                if name in {target.name for target in group.recipe.targets}:
                    here = re.compile(rf"(?<=\.){other}(?=\.)")
                    return {here.sub(str(index), n, count=1): self.shards.tensors[n].shape for n in group.names}
        return None


def _wrong(stored: list[StoredTensor], name: str, reason: str) -> Recipe:
    return Recipe(wrong=reason, at=[each.name for each in stored].index(name))


def _signature(items: object) -> tuple[object, ...]:
    """Names with their numbers wiped, dtypes and shapes."""
    return tuple((re.sub(r"\d+", "#", name), each.dtype, tuple(each.shape)) for name, each in items)  # type: ignore[attr-defined]


def _are_placed(parameters: Mapping[str, torch.Tensor]) -> bool:
    return all(isinstance(tensor, Tagged) and tensor.is_contiguous() for tensor in parameters.values())


def _targets(parameters: Mapping[str, torch.Tensor], prefix: str) -> tuple[Target, ...]:
    return tuple(
        Target(
            name.removeprefix(prefix),
            tuple(tensor.shape),
            tensor.dtype,
            tensor.pieces if isinstance(tensor, Tagged) else (),
        )
        for name, tensor in parameters.items()
    )


def _is_packed(stored: list[StoredTensor], targets: tuple[Target, ...]) -> bool:
    """True for MXFP4 blocks (experts, rows, groups, 16) and scales without the last, for (experts, columns, rows)."""
    if len(stored) != 2 or len(targets) != 1 or any(each.dtype != torch.uint8 for each in stored):
        return False
    blocks, scales = stored
    if len(blocks.shape) != 4 or blocks.shape[:-1] != scales.shape or blocks.shape[-1] != 16:
        return False
    experts, rows, groups, _ = blocks.shape
    return targets[0].shape == (experts, groups * 32, rows)


def _misshapen(stored: StoredTensor, wanted: tuple[int, ...]) -> str:
    return f"{stored.name} in {stored.file} is {list(stored.shape)}, not {list(wanted)}"
