"""The resident engine: the whole model is in memory, of one device or of several, and sequences go through it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy.typing as npt
import torch

from capture.batching import batches
from capture.heap import keep_any_block, keep_small_blocks
from capture.loss import decoder_of, token_nll
from capture.model_facts import Skeleton
from capture.observation import observe
from capture.plan import CapturePlan
from capture.sink import Sink
from capture.weights.converter import Converter
from capture.weights.quantisation import dequantising
from capture.weights.recipes import Recipes
from capture.weights.shards import Shards
from schemas.errors import CapacityError, InputError

__all__ = ["capture_resident", "load_model", "placement"]


def placement(plan: CapturePlan, free_bytes: Mapping[torch.device, int | None]) -> dict[str, Any]:
    """How transformers is to spread a model over devices; empty where the first has room for all of it.

    Whole layers go to one device each, by accelerate's own reckoning; every device keeps room for a batch's work.
    """
    first = next(iter(free_bytes.values()))
    if len(free_bytes) == 1 or first is None or plan.memory.needed <= first:
        return {}
    room = {device.index: max(0, (free or 0) - plan.memory.work) for device, free in free_bytes.items()}
    return {"device_map": "auto", "max_memory": room}


def load_model(
    folder: Path, skeleton: Skeleton, device: torch.device, placed: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """The model of ``folder`` with its weights on ``device``, for inference, from safetensors only.

    ``placed`` spreads it over several devices instead. Raises InputError where the checkpoint does not fill the model:
    a tensor missing, of another shape, or damaged.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    Recipes(Converter(skeleton), Shards.in_folder(folder)).require_complete(folder)
    options = dict(placed)
    if not placed and device.type != "cpu":
        options["device_map"] = {"": str(device)}  # straight there: the host need not hold the model
    if skeleton.facts.quantisation is not None:
        options["quantization_config"] = dequantising(skeleton.facts.quantisation)
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=skeleton.dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # named below; transformers would point to its log
            **options,
        )
    except torch.OutOfMemoryError:
        raise CapacityError(f"{folder} does not fit in the memory of {device}; use --device cpu") from None
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder}: the weights cannot be loaded: {str(error).strip()[:400]}") from error
    wrong = [f"{name} is missing" for name in sorted(report["missing_keys"])]
    wrong += [
        f"{name} is {list(stored)}, not {list(wanted)}" for name, stored, wanted in sorted(report["mismatched_keys"])
    ]
    if wrong:
        raise InputError(f"{folder}: the checkpoint does not fill the model in {len(wrong)} places, first: {wrong[0]}")
    model.eval()
    return model


def _memory_used_again(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Small activations and logits of each batch lie where those of the one before lay (decision 041)."""
    return keep_small_blocks() if device.type == "cpu" else contextlib.nullcontext()


def capture_resident(
    model: Any,
    plan: CapturePlan,
    token_id: npt.NDArray[Any],
    missing: Sequence[int],
    sink: Sink,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Run the ``missing`` sequences of ``token_id`` (sequence, position) through ``model``, their sites into ``sink``.

    Raises CaptureError where a site does not fire exactly once, or with another shape or dtype.
    """
    decoder = decoder_of(model)
    with _memory_used_again(device), torch.inference_mode(), observe(model, plan, dtype, sink) as observation:
        for batch in batches(missing, plan.dimensions.sequences, plan.batch_size):
            ids = torch.from_numpy(token_id[batch.start : batch.stop]).to(device).long()
            sink.begin(batch, missing)
            observation.expect(len(batch))
            output = decoder(input_ids=ids, use_cache=False)
            observation.check()
            with keep_any_block():
                loss = token_nll(model, ids, output, plan.loss_block_positions)
            sink.finish(loss)
