"""transformers' converter, which turns a checkpoint's tensors into a model's parameters, without its side effects.

The only module that touches transformers' semi-private loading interface (5.23).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import EllipsisType, MappingProxyType
from typing import Any, Protocol

import torch

from capture.model_facts import Skeleton
from capture.weights.quantisation import dequantising

__all__ = ["Converted", "Converter", "Source"]


MODELS_OWN: Mapping[str, torch.Size] = MappingProxyType({})
"""No shapes but the model's."""


class Source(Protocol):
    """What the converter takes for a tensor of the checkpoint: a tensor, or what reads one when it is indexed."""

    def __getitem__(self, index: EllipsisType) -> torch.Tensor: ...

    def is_floating_point(self) -> bool: ...


@dataclass(frozen=True)
class Converted:
    """What came of some tensors: parameters by name, and what is wrong with those that do not come out, by name."""

    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, torch.Size] = field(default_factory=dict)
    """Of parameters that come out in another shape than the model's, which ``wrong`` has too."""


class Converter:
    """The conversion of one checkpoint into ``skeleton.model``, which stays as it is unless ``load`` is called."""

    def __init__(self, skeleton: Skeleton) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping

        self.model = skeleton.model
        self.config = skeleton.config
        self.dtype = skeleton.dtype
        self.quantisation = skeleton.facts.quantisation
        self._quantizer = _dequantizer(skeleton)
        self._mapping = get_model_conversion_mapping(self.model, None, self._quantizer)
        self.state: dict[str, torch.Tensor] = self.model.state_dict()
        """The model's own tensors, on the meta device, by name."""

    def groups(self, names: Iterable[str]) -> dict[str, list[str]]:
        """The tensors called ``names`` by the first parameter that they become part of, in the converter's order.

        Tensors that become none (multi-token prediction, an extra layer, saved masks) are left out.
        """
        from transformers.core_model_loading import (
            WeightConverter,
            WeightRenaming,
            dot_natural_key,
            rename_source_key,
        )

        renamings = [entry for entry in self._mapping if isinstance(entry, WeightRenaming)]
        converters = [entry for entry in self._mapping if isinstance(entry, WeightConverter)]
        prefix = self.model.base_model_prefix
        found: dict[str, list[str]] = {}
        for name in sorted(names, key=dot_natural_key):
            target, _ = rename_source_key(name, renamings, converters, prefix, self.state)
            if target not in self.state and name in self.state:
                target, _ = rename_source_key(name, [], [], base_model_prefix=prefix, meta_state_dict=self.state)
            if target in self.state:
                found.setdefault(target, []).append(name)
        return found

    def convert(
        self, tensors: Mapping[str, Source], *, device: str = "cpu", shapes: Mapping[str, torch.Size] = MODELS_OWN
    ) -> Converted:
        """What the model's parameters become from ``tensors``, by the checkpoint's names; the model is left alone.

        ``shapes`` of parameters count instead of the model's: of some of the experts, say.
        """
        resized = {
            name: torch.empty(shape, dtype=self.state[name].dtype, device="meta") for name, shape in shapes.items()
        }
        view = _View(self.model, {**self.state, **resized})
        result = self._run(view, tensors, device)
        return Converted(view.parameters, result.wrong, result.shapes)

    def load(self, tensors: Mapping[str, Source], device: torch.device) -> Converted:
        """Set the model's own parameters from ``tensors``, on ``device``."""
        return self._run(self.model, tensors, str(device))

    def _run(self, model: Any, tensors: Mapping[str, Source], device: str) -> Converted:
        from transformers.core_model_loading import convert_and_load_state_dict_in_model
        from transformers.modeling_utils import LoadStateDictConfig
        from transformers.utils import logging

        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # one per call, of which there are many
        try:
            report, _ = convert_and_load_state_dict_in_model(
                model,
                dict(tensors),
                LoadStateDictConfig(
                    dtype=self.dtype,
                    dtype_plan=self.model._get_dtype_plan(self.dtype),
                    weight_mapping=self._mapping,
                    hf_quantizer=self._quantizer,
                    device_map={"": device},
                ),
            )
        finally:
            if shown:
                logging.enable_progress_bar()
        wrong = {name: _reason(text) for name, text in report.conversion_errors.items()}
        wrong |= {name: f"{name} is {list(is_)}, not {list(wanted)}" for name, is_, wanted in report.mismatched_keys}
        return Converted({}, wrong, {name: shape for name, shape, _ in report.mismatched_keys})


class _View:
    """A model as the converter sees it, with ``state`` for its tensors; what is set on it is kept in ``parameters``."""

    def __init__(self, model: Any, state: Mapping[str, torch.Tensor]) -> None:
        self._model = model
        self._state = state
        self.parameters: dict[str, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def state_dict(self) -> Mapping[str, torch.Tensor]:
        return self._state

    def named_buffers(self) -> list[tuple[str, torch.Tensor]]:
        return []

    def get_parameter(self, name: str) -> torch.Tensor:
        return self._state[name]

    def get_submodule(self, path: str) -> _ModuleView:
        return _ModuleView(self, path, self._model.get_submodule(path))


class _ModuleView:
    """A module of a ``_View``."""

    def __init__(self, view: _View, path: str, module: Any) -> None:
        self.__dict__.update(_view=view, _path=path, _module=module)

    def __getattr__(self, name: str) -> Any:
        full = f"{self._path}.{name}"
        return self._view._state[full] if full in self._view._state else getattr(self._module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._view.parameters[f"{self._path}.{name}"] = value.detach()


def _reason(text: str) -> str:
    """The error in a conversion's report, which begins with a traceback."""
    errors = re.findall(r"^(?:\w+\.)*\w*(?:Error|Exception): (.+)", text, re.MULTILINE)
    return str(errors[-1] if errors else text.strip().splitlines()[-1])[:200]


def _dequantizer(skeleton: Skeleton) -> Any:
    """What turns quantised weights into ``skeleton.dtype``; None for an unquantised checkpoint."""
    if skeleton.facts.quantisation is None:
        return None
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(dequantising(skeleton.facts.quantisation), pre_quantized=True)
    quantizer.preprocess_model(model=skeleton.model, dtype=skeleton.dtype, device_map={"": "cpu"}, use_kernels=False)
    return quantizer
