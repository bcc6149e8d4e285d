"""What ties the layers of a model together beyond the hidden states that go from one to the next.

Found without weights: the decoder runs an identity pass on stand-ins that take no memory, in which no layer computes.
"""

from __future__ import annotations

import copy
from typing import Any

import torch

from capture.layer_calls import carries_state, record_calls
from capture.loss import decoder_of
from capture.sites import decoder_layers
from schemas.errors import CaptureError

__all__ = ["coupling_of"]

POSITIONS = 16
"""What a decoder does between its layers does not depend on how many tokens it is given."""


def coupling_of(model: Any) -> str | None:
    """Why the layers of ``model``, on the meta device, cannot run apart from it, in words; None where they can.

    Anything that goes wrong in the pass counts as a reason: a real forward, which needs no such pass, is then safe.
    """
    model = copy.deepcopy(model)  # a forward may leave its mark
    try:
        decoder = decoder_of(model)
        held = [*decoder.named_parameters(), *decoder.named_buffers()]
        stand_ins = {name: torch.zeros((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in held}
        token_id = torch.zeros((1, POSITIONS), dtype=torch.long)
        with torch.inference_mode():
            calls = record_calls(decoder, list(decoder_layers(model)[1]), token_id, stand_ins)
    except CaptureError as error:
        return str(error)
    shared = carries_state(calls)
    if shared is not None:
        return f"layers of {type(decoder).__name__} leave something in {shared} for later ones"
    return None
