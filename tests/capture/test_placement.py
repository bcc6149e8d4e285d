"""Where elements land: tags through a conversion, bytes read to where the tags say, against the conversion itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from capture.weights.mxfp4 import mxfp4_table
from capture.weights.placement import NotPlacementError, Tagged, tagged
from capture.weights.reading import Reader, place, same_bits
from capture.weights.recipes import Group, Recipe, Target
from capture.weights.shards import Shards

Conversion = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]

PLACEMENTS: dict[str, Conversion] = {
    "as it is": lambda t: t,
    "cast": lambda t: [each.to(device="cpu", dtype=torch.bfloat16) for each in t],
    "experts fused": lambda t: [torch.cat([torch.stack(list(t[:2])), torch.stack(list(t[2:]))], dim=1)],
    "fused and cast": lambda t: [torch.cat([torch.stack([x.half() for x in t[i : i + 2]]) for i in (0, 2)], dim=1)],
    "fused along the last": lambda t: [torch.cat(list(t), dim=-1)],
    "fused and transposed": lambda t: [torch.stack(list(t)).transpose(1, 2).contiguous()],
    "transposed and fused": lambda t: [torch.cat([each.T.contiguous() for each in t], dim=0)],
    "transposed and cast": lambda t: [each.T.contiguous().bfloat16() for each in t],
    "permuted": lambda t: [t[0].reshape(3, 2, 4).permute(2, 0, 1).contiguous()],
    "split in rows": lambda t: [part.contiguous() for part in torch.chunk(t[0], 3, dim=0)],
    "split in columns": lambda t: [part.contiguous() for part in torch.chunk(t[0], 2, dim=1)],
    "split unevenly": lambda t: [part.contiguous() for part in torch.split(t[0], [1, 2, 3], dim=0)],
    "rows apart": lambda t: [row.contiguous() for row in t[1].unbind(0)],
    "columns apart": lambda t: [t[1].select(1, 2).contiguous(), t[2][1:5:2].contiguous()],
    "another shape": lambda t: [t[0].reshape(2, 12), t[1].view(24), t[2].unsqueeze(1), t[3].unsqueeze(0).squeeze(0)],
}

COMPUTATIONS: dict[str, Conversion] = {
    "one added": lambda t: [t[0] + 1],
    "a product": lambda t: [t[0] * t[1]],
    "a value read": lambda t: [t[0]] if float(t[0].sum()) else [t[1]],
    "cast twice": lambda t: [t[0].half().bfloat16()],
    "several in one, and then split": lambda t: list(torch.cat(list(t[:2])).split(6)),
    "reshaped across a transposition": lambda t: [t[0].T.contiguous().reshape(3, 8)],
    "elements chosen": lambda t: [t[0][torch.tensor([2, 1])]],
    "with something else": lambda t: [torch.cat([t[0], torch.zeros(1, 4)])],
}


def sources() -> list[torch.Tensor]:
    return [torch.arange(24.0).reshape(6, 4) + 100.5 * index for index in range(4)]


@pytest.mark.parametrize("name", PLACEMENTS)
def test_read_to_where_the_tags_say(name: str, tmp_path: Path) -> None:
    real = PLACEMENTS[name](sources())
    traced = PLACEMENTS[name]([tagged(str(i), tensor.shape, tensor.dtype) for i, tensor in enumerate(sources())])
    targets = []
    for index, (result, expected) in enumerate(zip(traced, real, strict=True)):
        assert isinstance(result, Tagged)
        assert (result.shape, result.dtype, result.stride()) == (expected.shape, expected.dtype, expected.stride())
        targets.append(Target(str(index), tuple(result.shape), result.dtype, result.pieces))

    names = [f"tensor {index}" for index in range(4)]
    save_file(dict(zip(names, sources(), strict=True)), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    group = Group(tuple(names), "", Recipe(tuple(targets), placed=True))
    views = {target.name: torch.full(target.shape, torch.nan, dtype=target.dtype) for target in targets}
    for task in Reader(Shards.in_folder(tmp_path), mxfp4_table).tasks(group, views):
        task()
    for target, expected in zip(targets, real, strict=True):
        assert same_bits(views[target.name], expected)
    again = {target.name: torch.full(target.shape, torch.nan, dtype=target.dtype) for target in targets}
    for index, tensor in enumerate(sources()):
        place(group, {index: tensor}, again)
    assert all(same_bits(again[name], view) for name, view in views.items())


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_what_computes_is_no_placement(name: str) -> None:
    COMPUTATIONS[name](sources())
    with pytest.raises(NotPlacementError):
        COMPUTATIONS[name]([tagged(str(i), tensor.shape, tensor.dtype) for i, tensor in enumerate(sources())])


def test_shapes_that_do_not_fit_fail_as_they_would() -> None:
    with pytest.raises(RuntimeError, match="equal size"):
        torch.stack([tagged("0", (2, 3), torch.half), tagged("1", (2, 4), torch.half)])
