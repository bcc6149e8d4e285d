"""One decoder layer's weights at a time, from a checkpoint in its original format.

What transformers' converter only moves and casts is read straight into one of two buffers; MXFP4 is unpacked by table;
all else the converter computes. The first layer of each shape is compared with the converter's own result.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import nn

from capture.heap import give_back_large_blocks, large_blocks_given_back
from capture.model_facts import Skeleton
from capture.sites import decoder_layers
from capture.weights.arena import Arenas, Layout
from capture.weights.comparison import Comparison
from capture.weights.converter import Converter
from capture.weights.mxfp4 import mxfp4_table
from capture.weights.reading import Reader, Task, Views
from capture.weights.recipes import Group, Recipes
from capture.weights.shards import Shards
from schemas.errors import CaptureError, InputError, OutlierFeaturesError

__all__ = ["LayerWeights"]

READERS = max(2, min(8, os.cpu_count() or 1))


class LayerWeights:
    """Loads and releases the weights of ``skeleton.model``, a layer at a time, and all the rest at once.

    After construction nothing is loaded. ``path`` and ``layers`` are the model's list of decoder layers. At most two
    layers are loaded at any time (capture/weights/arena.py): load the next one while one computes, and the one after
    that when it has been released. Different layers may be loaded and released in different threads.
    """

    def __init__(self, folder: Path, skeleton: Skeleton, device: torch.device, shards: Shards | None = None) -> None:
        """Learn where each tensor of the checkpoint belongs, from names and shapes; ``shards`` are those of ``folder``.

        Raises InputError, naming file and tensor, where a file is unreadable or truncated, or the checkpoint does not
        fill the model.
        """
        give_back_large_blocks()
        self.model = skeleton.model
        self.path, self.layers = decoder_layers(self.model)
        self.shards = Shards.in_folder(folder) if shards is None else shards
        self._folder = folder
        self._device = device
        self._converter = Converter(skeleton)
        self._recipes = Recipes(self._converter, self.shards)
        self._recipes.require_complete(folder)
        self._reader = Reader(self.shards, cache(mxfp4_table))
        self._comparison = Comparison(self._converter, self.shards)
        self._loading = threading.Lock()
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="weights")
        self._layouts = [
            Layout.of(target for group in self._recipes.groups[index] for target in group.recipe.targets)
            for index in range(len(self.layers))
        ]
        self._arenas: Arenas | None = None
        self._released: dict[int, dict[str, nn.Parameter | torch.Tensor]] = {}

    def files(self, index: int | None) -> list[str]:
        """Names of the checkpoint's files that layer ``index`` is read from, None for what belongs to no layer."""
        return sorted({self.shards.tensors[name].file for name in self._recipes.names(index)})

    def load_outside(self) -> None:
        """Load what belongs to no layer (embeddings, final norm, output head), tie what is tied, compute buffers."""
        self._compute_buffers()
        with self._naming("the weights outside its layers"):
            names = self._recipes.names(None)
            wrong = self._converter.load({name: self.shards.lazy(name) for name in names}, self._device).wrong
        if wrong:
            raise InputError(f"{self._folder}: {len(wrong)} tensors do not fit the model, first {min(wrong.values())}")
        self.model.tie_weights()
        inside = f"{self.path}."
        held = (*self.model.named_parameters(), *self.model.named_buffers())
        missing = [name for name, tensor in held if tensor.is_meta and not name.startswith(inside)]
        if missing:
            raise InputError(f"{self._folder}: {len(missing)} tensors are missing, first {missing[0]}")

    def load_layer(self, index: int) -> None:
        """Load layer ``index`` onto the device.

        Raises InputError where a tensor cannot be read or converted, RuntimeError where two layers are loaded already.
        """
        with self._loading:
            if self._arenas is None:
                self._arenas = Arenas(max(layout.size_bytes for layout in self._layouts), self._device)
            layout = self._layouts[index]
            views = layout.views(self._arenas.take(index))
            try:
                with self._naming(f"layer {index}"), self._converting(index):
                    apart = self._read(index, views)
                on_device = layout.views(self._arenas.filled(index, layout.size_bytes))
            except BaseException:
                self._arenas.release(index)
                raise
            self._set(index, on_device | {name: tensor.to(self._device) for name, tensor in apart.items()})

    def _converting(self, index: int) -> contextlib.AbstractContextManager[None]:
        """Where the converter computes, its tensors are gone at once; what is read in place takes no memory."""
        straight = all(
            group.recipe.checked and (group.recipe.placed or group.recipe.packed)
            for group in self._recipes.groups[index]
        )
        return contextlib.nullcontext() if straight else large_blocks_given_back()

    def _read(self, index: int, views: Views) -> dict[str, torch.Tensor]:
        """Fill ``views``; what the converter gives in another layout than theirs, to be used as it is."""
        groups = self._recipes.groups[index]
        tasks: list[Task] = []
        for group in groups:
            if group.recipe.placed and not group.recipe.checked:
                self._comparison.place(group, views)
            elif group.recipe.placed or group.recipe.packed:
                tasks += self._reader.tasks(group, views)
        self._do(tasks)
        apart: dict[str, torch.Tensor] = {}
        for group in groups:
            if group.recipe.packed and not group.recipe.checked:
                self._comparison.unpacked(group, views)
            if not (group.recipe.placed or group.recipe.packed):
                apart |= self._convert(group, views)
        return apart

    def release_layer(self, index: int) -> None:
        """Let another layer have the memory of layer ``index``, whose parameters lie on the meta device again."""
        for name, tensor in self._released.pop(index, {}).items():
            self._put(index, name, tensor)
        if self._arenas is not None:
            self._arenas.release(index)

    def _set(self, index: int, tensors: Views) -> None:
        held = self._released[index] = {}
        for name, tensor in tensors.items():
            held[name] = self._put(index, name, tensor)

    def _put(self, index: int, name: str, tensor: torch.Tensor) -> nn.Parameter | torch.Tensor:
        """Set parameter or buffer ``name`` of layer ``index``; what was there before."""
        path, _, own = name.rpartition(".")
        module = self.layers[index].get_submodule(path)
        if own in module._buffers:
            before = module._buffers[own]
            module._buffers[own] = tensor
        else:
            before = module._parameters[own]
            module._parameters[own] = (
                tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
            )
        if before is None:
            raise CaptureError(f"layer {index} has no parameter {name}")
        return before

    def _do(self, tasks: Iterable[Task]) -> None:
        """Do them all in threads. Wait for all even where one fails: they write to a buffer that others will use."""
        running = [self._pool.submit(task) for task in tasks]
        errors = [error for each in running if (error := each.exception()) is not None]
        if errors:
            raise errors[0]

    def _convert(self, group: Group, views: Views) -> dict[str, torch.Tensor]:
        """Let the converter compute a group; what it gives in another layout than contiguous, to be used as it is."""
        result = self._converter.convert({name: self.shards.lazy(name) for name in group.names})
        if result.wrong:
            raise InputError(f"{self._folder}: {min(result.wrong.values())}")
        apart = {}
        for target in group.recipe.targets:
            tensor = result.parameters[group.prefix + target.name]
            if tensor.is_contiguous():
                views[target.name].copy_(tensor)
            else:
                apart[target.name] = tensor
        return apart

    @contextlib.contextmanager
    def _naming(self, where: str) -> Iterator[None]:
        """Say of any error in loading what was being loaded."""
        try:
            yield
        except (OutlierFeaturesError, torch.OutOfMemoryError):
            raise  # a shard that could not be fetched, or a full device, is no fault of the checkpoint
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{self._folder}: {where} cannot be loaded: {str(error).strip()[:300]}") from error

    def _compute_buffers(self) -> None:
        """Compute the buffers that no checkpoint holds (rotary frequencies, scales), as the model initialises them.

        A buffer may be set by its own module's initialisation or by that of a model around it (Falcon-H1). Parameters
        are still on the meta device, where initialising them does nothing.
        """
        from transformers import PreTrainedModel

        empty = [
            (module, name)
            for module in self.model.modules()
            for name in module._non_persistent_buffers_set
            if (buffer := module._buffers[name]) is not None and buffer.is_meta
        ]
        for module, name in empty:
            shape = module._buffers[name]
            unset = float("nan") if shape.is_floating_point() else 0
            module._buffers[name] = torch.full_like(shape, unset, device=self._device)
        models = [module for module in self.model.modules() if isinstance(module, PreTrainedModel)]
        for module in dict.fromkeys(module for module, _ in empty):
            around = [model for model in models if any(inner is module for inner in model.modules())]
            around[-1]._init_weights(module)
        for model in models:
            model._init_weights(model)
        for module, name in empty:
            if bool(torch.isnan(module._buffers[name]).any()):
                raise CaptureError(
                    f"{type(module).__name__}: its buffer {name} is in no checkpoint and was not computed; "
                    "use --engine resident"
                )
