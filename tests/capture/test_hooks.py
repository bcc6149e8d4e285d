"""Hooks see each site's input exactly once, or say which module is wrong; and they never stay behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from capture.hooks import SiteHooks
from capture.sites import Site
from schemas.errors import CaptureError

BATCH, POSITIONS, FEATURES = 2, 3, 4
LAYERS = 2


class Mixer(nn.Module):
    """Something that takes hidden states by keyword, as most attentions do."""

    def forward(self, *, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * 0.5


class Block(nn.Module):
    """A decoder layer; ``mlp_calls`` is how often it calls its MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.attn, self.mlp = nn.LayerNorm(FEATURES), Mixer(), nn.Linear(FEATURES, FEATURES)
        self.mlp_calls = 1

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        hidden = hidden + self.attn(hidden_states=self.norm(hidden))
        for _ in range(self.mlp_calls):
            hidden = hidden + self.mlp(self.norm(hidden))
        return hidden


class Decoder(nn.Module):
    """Two such layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            hidden = layer(hidden)
        return hidden


SITES = (
    Site("ln_attn", ("layers.0.attn", "layers.1.attn")),
    Site("ln_mlp", ("layers.0.mlp", "layers.1.mlp")),
)


@pytest.fixture
def model() -> Decoder:
    torch.manual_seed(0)
    return Decoder()


def hidden(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*(shape or (BATCH, POSITIONS, FEATURES)), dtype=dtype)


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) for module in model.modules())


def run(model: Decoder, tensor: torch.Tensor, sites: tuple[Site, ...] = SITES) -> list[tuple[str, int, torch.Tensor]]:
    """What the hooks hand on during one forward that expects (BATCH, POSITIONS, FEATURES) in float32."""
    seen: list[tuple[str, int, torch.Tensor]] = []
    receive: Any = lambda site, layer, hidden: seen.append((site, layer, hidden))  # noqa: E731
    with torch.inference_mode(), SiteHooks(model, sites, torch.float32, receive) as hooks:
        hooks.expect(BATCH, POSITIONS, FEATURES)
        model(tensor)
        hooks.check()
    return seen


def test_each_site_is_handed_on_once_in_the_order_of_the_forward(model: Decoder) -> None:
    tensor = hidden()
    seen = run(model, tensor)
    assert [(site, layer) for site, layer, _ in seen] == [(s, n) for n in range(LAYERS) for s in ("ln_attn", "ln_mlp")]
    with torch.no_grad():
        first = model.layers[0].norm(tensor)  # by keyword
        second = model.layers[0].norm(tensor + model.layers[0].attn(hidden_states=first))  # by position
    assert torch.equal(seen[0][2], first)
    assert torch.equal(seen[1][2], second)
    assert hook_count(model) == 0


def test_two_dimensions_are_read_as_sequences_of_positions(model: Decoder) -> None:
    tensor = hidden()
    flat = run(model, tensor.reshape(BATCH * POSITIONS, FEATURES))
    for (_, _, two), (_, _, three) in zip(flat, run(model, tensor), strict=True):
        assert two.shape == (BATCH, POSITIONS, FEATURES)
        assert torch.equal(two, three)


def test_a_site_that_fires_twice_is_named(model: Decoder) -> None:
    model.layers[1].mlp_calls = 2
    with pytest.raises(CaptureError, match=r"ln_mlp of layer 1 \(layers\.1\.mlp\) fired a second time"):
        run(model, hidden())
    assert hook_count(model) == 0


def test_the_second_firing_is_not_handed_on(model: Decoder) -> None:
    model.layers[0].mlp_calls = 2
    seen: list[tuple[str, int]] = []
    with SiteHooks(model, SITES, torch.float32, lambda site, layer, hidden: seen.append((site, layer))) as hooks:
        hooks.expect(BATCH, POSITIONS, FEATURES)
        with pytest.raises(CaptureError, match=r"layers\.0\.mlp"):
            model(hidden())
    assert seen == [("ln_attn", 0), ("ln_mlp", 0)]


def test_sites_that_never_fire_are_counted_and_named(model: Decoder) -> None:
    for layer in model.layers:
        layer.mlp_calls = 0
    with pytest.raises(CaptureError, match=r"2 sites did not fire .*: ln_mlp of layer 0 \(layers\.0\.mlp\); ln_mlp of"):
        run(model, hidden())
    assert hook_count(model) == 0


def test_a_forward_without_an_announcement_checks_nothing_off(model: Decoder) -> None:
    with SiteHooks(model, SITES, torch.float32, lambda *_: None) as hooks:
        hooks.expect(BATCH, POSITIONS, FEATURES)
        model(hidden())
        hooks.check()
        hooks.expect(BATCH, POSITIONS, FEATURES)
        with pytest.raises(CaptureError, match="4 sites did not fire"):
            hooks.check()


@pytest.mark.parametrize(
    "shape",
    [(BATCH, POSITIONS + 1, FEATURES), (BATCH + 1, POSITIONS, FEATURES), (POSITIONS, BATCH, FEATURES), (6, 1, 4), (4,)],
)
def test_another_shape_is_refused(model: Decoder, shape: tuple[int, ...]) -> None:
    with pytest.raises(
        CaptureError, match=r"ln_attn at layers\.0\.attn: hidden states of shape \(.*expected \(2, 3, 4"
    ):
        run(model, hidden(*shape))
    assert hook_count(model) == 0


def test_another_dtype_is_refused_with_the_flag_that_takes_it(model: Decoder) -> None:
    with pytest.raises(
        CaptureError, match=r"ln_attn at layers\.0\.attn: hidden states are float16, .* float32; choose --dtype float16"
    ):
        run(model.half(), hidden(dtype=torch.float16))
    assert hook_count(model) == 0


def test_an_input_that_is_no_tensor_is_refused(model: Decoder) -> None:
    class Packed(Decoder):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.layers[0].mlp((hidden, None))

    with pytest.raises(CaptureError, match=r"ln_mlp at layers\.0\.mlp: the module's input is tuple"):
        run(Packed(), hidden())


def test_a_module_called_without_input_is_refused(model: Decoder) -> None:
    class Empty(Decoder):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return self.layers[0].attn()

    with pytest.raises(CaptureError, match=r"ln_attn at layers\.0\.attn: the module's input is NoneType"):
        run(Empty(), hidden())


def test_no_hook_stays_where_one_cannot_be_registered(model: Decoder) -> None:
    missing = Site("ln_mlp", ("layers.0.mlp", "layers.1.no_such"))
    with pytest.raises(AttributeError, match="no_such"), SiteHooks(model, (SITES[0], missing), torch.float32, print):
        pytest.fail("entered")
    assert hook_count(model) == 0


def test_no_hook_stays_after_an_error_of_the_receiver_or_the_model(model: Decoder) -> None:
    def full(*_: Any) -> None:
        raise OSError("no room")

    with SiteHooks(model, SITES, torch.float32, full) as hooks:
        assert hook_count(model) == 2 * LAYERS
        hooks.expect(BATCH, POSITIONS, FEATURES)
        with pytest.raises(OSError, match="no room"):
            model(hidden())
    with pytest.raises(KeyboardInterrupt), SiteHooks(model, SITES, torch.float32, full):
        raise KeyboardInterrupt
    assert hook_count(model) == 0


class Parallel(Decoder):
    """One norm feeds both; ``shift`` makes the MLP's input another tensor, ``copied`` a copy."""

    shift, copied = 0.0, False

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            both = layer.norm(hidden)
            other = both.clone() if self.copied else both
            hidden = hidden + layer.attn(hidden_states=both) + layer.mlp(other + self.shift if self.shift else other)
        return hidden


ONE_NORM = (SITES[0], Site("ln_mlp", SITES[1].modules, alias="ln_attn"))


@pytest.mark.parametrize("copied", [False, True])
def test_an_alias_is_checked_and_not_handed_on(copied: bool) -> None:
    model = Parallel()
    model.copied = copied
    assert [(site, layer) for site, layer, _ in run(model, hidden(), ONE_NORM)] == [("ln_attn", 0), ("ln_attn", 1)]


def test_an_alias_that_is_another_tensor_is_refused() -> None:
    model = Parallel()
    model.shift = 1e-3
    with pytest.raises(CaptureError, match="layer 0: ln_mlp and ln_attn were taken for one tensor"):
        run(model, hidden(), ONE_NORM)
    assert hook_count(model) == 0


def test_an_alias_that_never_fires_is_named() -> None:
    class Deaf(Parallel):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            for layer in self.layers:
                hidden = hidden + layer.attn(hidden_states=layer.norm(hidden))
            return hidden

    with pytest.raises(CaptureError, match=r"did not fire in a forward: ln_mlp of layer 0 \(layers\.0\.mlp\)"):
        run(Deaf(), hidden(), ONE_NORM)
