"""One decoder layer's weights at a time, from a checkpoint in its original format.

The only module that touches transformers' semi-private loading interface (5.23): its converter turns the tensors of a
checkpoint (experts apart, MXFP4 blocks, old names) into the parameters of a model built on the meta device. Each
tensor is read once, by pread: mapped pages would count as resident memory.
"""

from __future__ import annotations

import contextlib
import ctypes
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import EllipsisType
from typing import Any

import torch

from capture.model_facts import Skeleton
from capture.shards import Shards
from capture.sites import decoder_layers
from schemas.errors import CaptureError, InputError

__all__ = ["LayerWeights"]


M_MMAP_THRESHOLD = -3
"""glibc's name for the size from which a block is mapped by itself, in malloc.h."""


class _OnDisk:
    """A tensor of a checkpoint as the converter takes it: read when it is indexed."""

    def __init__(self, shards: Shards, name: str) -> None:
        self._shards = shards
        self._name = name

    def __getitem__(self, index: EllipsisType) -> torch.Tensor:
        return self._shards.read(self._name)[index]

    def is_floating_point(self) -> bool:
        return self._shards.tensors[self._name].dtype.is_floating_point


class LayerWeights:
    """Loads and releases the weights of ``skeleton.model``, a layer at a time, and all the rest at once.

    After construction nothing is loaded. ``path`` and ``layers`` are the model's list of decoder layers.
    """

    def __init__(self, folder: Path, skeleton: Skeleton, device: torch.device, shards: Shards | None = None) -> None:
        """Find where each tensor of the checkpoint belongs; raises InputError for an unreadable file."""
        from transformers.conversion_mapping import get_model_conversion_mapping

        _return_freed_memory()
        self.model = skeleton.model
        self._dtype = skeleton.dtype
        self._device = device
        self._quantizer = _dequantizer(skeleton)
        self._mapping = get_model_conversion_mapping(self.model, None, self._quantizer)
        self.path, self.layers = decoder_layers(self.model)
        self.shards = Shards.in_folder(folder) if shards is None else shards
        self._folder = folder
        self._tensors = self._by_layer({name: _OnDisk(self.shards, name) for name in self.shards.tensors})

    def _by_layer(self, tensors: Mapping[str, Any]) -> dict[int | None, dict[str, Any]]:
        """Checkpoint tensors by the layer that they become part of, None for those outside any layer.

        Tensors that become no parameter (multi-token prediction, an extra layer, saved masks) are left out.
        """
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

        renamings = [entry for entry in self._mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in self._mapping if isinstance(entry, WeightConverter)]
        prefix = self.model.base_model_prefix
        state = self.model.state_dict()
        layer_of = re.compile(re.escape(self.path) + r"\.(\d+)\.")
        found: dict[int | None, dict[str, Any]] = {None: {}, **{index: {} for index in range(len(self.layers))}}
        for name, tensor in tensors.items():
            target, _ = rename_source_key(name, renamings, converters, prefix, state)
            if target not in state and name in state:
                target, _ = rename_source_key(name, [], [], base_model_prefix=prefix, meta_state_dict=state)
            if target in state:
                match = layer_of.match(target)
                found[int(match[1]) if match else None][name] = tensor
        return found

    def files(self, index: int | None) -> list[str]:
        """Names of the checkpoint's files that layer ``index`` is read from, None for what belongs to no layer."""
        return sorted({self.shards.tensors[name].file for name in self._tensors[index]})

    def load_outside(self) -> None:
        """Load what belongs to no layer (embeddings, final norm, output head), tie what is tied, compute buffers."""
        self._compute_buffers()
        self._load(None)
        self.model.tie_weights()
        inside = f"{self.path}."
        held = (*self.model.named_parameters(), *self.model.named_buffers())
        self._require_loaded((name, tensor) for name, tensor in held if not name.startswith(inside))

    def load_layer(self, index: int) -> None:
        """Load layer ``index`` onto the device; raises InputError naming a tensor that is missing or misshapen."""
        self._load(index)
        layer = self.layers[index]
        held = (*layer.named_parameters(), *layer.named_buffers())
        self._require_loaded((f"{self.path}.{index}.{name}", tensor) for name, tensor in held)

    def release_layer(self, index: int) -> None:
        """Give the memory of layer ``index`` back."""
        self.layers[index].to("meta")

    def _load(self, index: int | None) -> None:
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig

        where = "the weights outside its layers" if index is None else f"layer {index}"
        try:
            report, _ = convert_and_load_state_dict_in_model(
                self.model,
                self._tensors[index],
                LoadStateDictConfig(
                    dtype=self._dtype,
                    dtype_plan=self.model._get_dtype_plan(self._dtype),
                    weight_mapping=self._mapping,
                    hf_quantizer=self._quantizer,
                    device_map={"": self._device},
                ),
            )
        except CaptureError:  # a shard that could not be fetched is no fault of the checkpoint
            raise
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(f"{self._folder}: {where} cannot be loaded: {str(error).strip()[:300]}") from error
        wrong = [*map(str, report.mismatched_keys), *map(str, report.conversion_errors)]
        if wrong:
            raise InputError(f"{self._folder}: {where}: {len(wrong)} tensors do not fit the model, first {wrong[0]}")

    def _require_loaded(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        missing = [name for name, tensor in tensors if tensor.is_meta]
        if missing:
            raise InputError(f"{self._folder}: {len(missing)} tensors are missing, first {missing[0]}")

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


def _return_freed_memory() -> None:
    """Have glibc give every freed block of 1 MiB or more back at once, instead of raising that size as it sees larger.

    Loading OLMoE's layers one by one peaked at 3.1 GB so, at 4.4 GB without. Nothing happens with another C library.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 2**20)


def _dequantizer(skeleton: Skeleton) -> Any:
    """What turns MXFP4 blocks and scales into ``skeleton.dtype``; None for an unquantised checkpoint."""
    if skeleton.facts.quantisation is None:
        return None
    from transformers import Mxfp4Config
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(Mxfp4Config(dequantize=True), pre_quantized=True)
    quantizer.preprocess_model(model=skeleton.model, dtype=skeleton.dtype, device_map={"": "cpu"}, use_kernels=False)
    return quantizer
