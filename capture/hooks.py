"""Hooks on a model's sites, as a context manager: each site's input is checked and handed on as it passes.

A hook that silently sees nothing, or sees something else, is the failure to fear here: the shape, the dtype and the
number of times that each site fires are checked on every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import torch
from torch import nn

from capture.sites import Site
from schemas.errors import CaptureError

__all__ = ["SiteHooks"]

Receiver = Callable[[str, int, torch.Tensor], None]


class SiteHooks:
    """While entered, hands ``receive(site, layer, hidden_BTF)`` the input of every stored site's module.

    An alias is not handed on; its tensor is checked to be the very one that its source received.
    """

    def __init__(self, model: nn.Module, sites: Sequence[Site], dtype: torch.dtype, receive: Receiver) -> None:
        """Nothing is hooked until the context is entered."""
        self._model = model
        self._sites = sites
        self._dtype = dtype
        self._receive = receive
        self._stack = ExitStack()
        self._shape = (0, 0, 0)
        self._layers: Container[int] | None = None
        self._fired: set[tuple[str, int]] = set()
        self._shared: dict[int, tuple[str, torch.Tensor]] = {}
        self._watching = False
        self._shared_sites = {name for site in sites if site.alias for name in (site.name, site.alias)}

    def __enter__(self) -> SiteHooks:
        """Register the hooks; none stays behind where one cannot be registered."""
        with ExitStack() as stack:
            for site in self._sites:
                for layer, path in enumerate(site.modules):
                    module = self._model.get_submodule(path)
                    handle = module.register_forward_pre_hook(self._hook(site, layer, path), with_kwargs=True)
                    stack.callback(handle.remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove the hooks."""
        self._stack.close()
        self._shared.clear()

    def expect(self, sequences: int, positions: int, features: int, layers: Container[int] | None = None) -> None:
        """Announce the shape of the next forward's hidden states, and the layers that it runs (default: all)."""
        self._shape = (sequences, positions, features)
        self._layers = layers
        self._fired.clear()
        self._shared.clear()
        self._watching = True

    def check(self) -> None:
        """Raise CaptureError unless every site of every layer fired since ``expect``; a second time it never does.

        What runs after it, until the next ``expect``, is not looked at: layers are called without computing where a
        model's own end is to run (``layer_calls.run_with_last_hidden``).
        """
        self._watching = False
        self._shared.clear()
        silent = [
            f"{site.name} of layer {layer} ({path})"
            for site in self._sites
            for layer, path in enumerate(site.modules)
            if (site.name, layer) not in self._fired and (self._layers is None or layer in self._layers)
        ]
        if silent:
            raise CaptureError(
                f"{len(silent)} sites did not fire in a forward: {'; '.join(silent[:4])}. "
                "The store is incomplete and says so; please report this architecture"
            )

    def _hook(self, site: Site, layer: int, path: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if not self._watching:
                return
            hidden = self._checked(kwargs.get("hidden_states", args[0] if args else None), f"{site.name} at {path}")
            if (site.name, layer) in self._fired:
                raise CaptureError(
                    f"{site.name} of layer {layer} ({path}) fired a second time in one forward. "
                    "The store is incomplete and says so; please report this architecture"
                )
            self._fired.add((site.name, layer))
            if site.name in self._shared_sites:
                self._same_tensor(site, layer, hidden)
            if site.alias is None:
                self._receive(site.name, layer, hidden)

        return hook

    def _checked(self, hidden: Any, where: str) -> torch.Tensor:
        """``hidden`` as (sequence, position, feature); raises CaptureError for another shape or dtype."""
        if not isinstance(hidden, torch.Tensor):
            raise CaptureError(f"{where}: the module's input is {type(hidden).__name__}, no tensor of hidden states")
        sequences, positions, features = self._shape
        if tuple(hidden.shape) not in ((sequences, positions, features), (sequences * positions, features)):
            raise CaptureError(
                f"{where}: hidden states of shape {tuple(hidden.shape)}, expected {self._shape} (or its first two "
                "dimensions as one)"
            )
        if hidden.dtype != self._dtype:
            raise CaptureError(
                f"{where}: hidden states are {str(hidden.dtype).removeprefix('torch.')}, the store keeps "
                f"{str(self._dtype).removeprefix('torch.')}; choose --dtype {str(hidden.dtype).removeprefix('torch.')}"
            )
        return hidden.reshape(self._shape)

    def _same_tensor(self, site: Site, layer: int, hidden: torch.Tensor) -> None:
        other, first = self._shared.setdefault(layer, (site.name, hidden))
        if first.data_ptr() != hidden.data_ptr() and not torch.equal(first, hidden):
            raise CaptureError(
                f"layer {layer}: {site.name} and {other} were taken for one tensor, as the layer has one norm, but "
                f"differ. Capture them separately: --sites ln_attn, then --sites ln_mlp with another --store"
            )
