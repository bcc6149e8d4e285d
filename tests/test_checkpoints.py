"""The tiny checkpoints are what they say: original names, loadable, and with outliers exactly where planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.checkpoints import (
    ARCHITECTURES,
    BEGIN_OF_TEXT,
    SITES,
    VOCABULARY_SIZE,
    Cell,
    Site,
    in_turn,
    planted,
    planted_cells,
    site_inputs,
    write_checkpoint,
    write_tokenizer,
)

THRESHOLD = 6.0
TEXT = "The cat and the hat: naïve Ωmega 猫 \N{CAT FACE}\n\t  def f(x): return 0\x00"

ORIGINAL_NAMES = {
    "olmoe": ["model.layers.0.mlp.experts.7.gate_proj.weight", "model.layers.3.mlp.gate.weight"],
    "gpt_oss": ["model.layers.0.mlp.experts.gate_up_proj_blocks", "model.layers.3.mlp.experts.down_proj_scales"],
    "gpt_oss_bf16": ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.3.self_attn.sinks"],
    "qwen3_moe": ["model.layers.0.mlp.experts.3.down_proj.weight", "model.layers.1.mlp.gate_proj.weight"],
    "mixtral": ["model.layers.0.block_sparse_moe.experts.3.w1.weight", "model.layers.3.block_sparse_moe.gate.weight"],
    "qwen3_next": ["model.layers.0.linear_attn.in_proj_qkvz.weight", "mtp.layers.0.mlp.experts.0.up_proj.weight"],
    "glm4_moe": ["model.layers.1.mlp.gate.e_score_correction_bias", "model.layers.46.mlp.experts.0.up_proj.weight"],
    "gpt2": ["wte.weight", "h.0.attn.c_attn.weight", "h.3.attn.bias"],
    "opt": ["model.decoder.layers.0.fc1.weight"],
    "opt_350m": ["decoder.project_in.weight", "decoder.layers.3.self_attn_layer_norm.bias"],
    "gpt_neox": ["embed_out.weight", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"],
    "falcon": ["transformer.h.0.self_attention.query_key_value.weight"],
    "mamba": ["backbone.layers.0.mixer.A_log"],
}

# In memory `(gate and up, down)` of expert 3 in layer 2, against its matrices in the checkpoint.
EXPERT_NAMES = {
    name: tuple(f"model.layers.2.{parent}.experts.3.{kind}.weight" for kind in kinds)
    for name, parent, kinds in (
        ("olmoe", "mlp", ("gate_proj", "up_proj", "down_proj")),
        ("qwen3_moe", "mlp", ("gate_proj", "up_proj", "down_proj")),
        ("qwen3_next", "mlp", ("gate_proj", "up_proj", "down_proj")),
        ("glm4_moe", "mlp", ("gate_proj", "up_proj", "down_proj")),
        ("mixtral", "block_sparse_moe", ("w1", "w3", "w2")),
    )
}


def load(folder: Path) -> PreTrainedModel:
    """The model in the checkpoint's dtype, after checking that every key was used or is ignored by the class."""
    model, information = AutoModelForCausalLM.from_pretrained(
        folder, dtype="auto", use_safetensors=True, output_loading_info=True
    )
    assert not {key: value for key, value in information.items() if value}
    return model.eval()


def random_ids(positions: int, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCABULARY_SIZE, (2, positions), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_loads_whole_and_stays_below_the_threshold(name: str, tmp_path: Path) -> None:
    architecture = ARCHITECTURES[name]
    folder = write_checkpoint(tmp_path / name, name)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(ORIGINAL_NAMES.get(name, ["model.embed_tokens.weight"])) <= set(file.keys())

    model = load(folder)
    ids = random_ids(48)
    with torch.no_grad():
        assert torch.isfinite(model(ids, use_cache=False).logits).all()
    inputs = site_inputs(model, name, ids)
    sites = SITES if architecture.mlp is not None else SITES[:1]
    assert set(inputs) == {(site, layer) for site in sites for layer in range(architecture.layer_count)}
    for tensor in inputs.values():
        assert tensor.dtype == torch.bfloat16
        assert tensor.abs().max() < THRESHOLD
    for layer in range(architecture.layer_count if len(sites) == 2 else 0):
        assert (inputs["ln_attn", layer] is inputs["ln_mlp", layer]) == architecture.one_norm_for_both

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_planted_features_show_in_exactly_their_cells(name: str, dtype: str, tmp_path: Path) -> None:
    edit = planted(name, 5, [0, 2], "ln_attn")
    expected: set[tuple[Cell, int]] = {(cell, 5) for cell in planted_cells(name, [0, 2], "ln_attn")}
    if ARCHITECTURES[name].mlp is not None:
        edit = in_turn(edit, planted(name, 17, [1, 3], "ln_mlp"))
        expected |= {(cell, 17) for cell in planted_cells(name, [1, 3], "ln_mlp")}
    model = load(write_checkpoint(tmp_path / name, name, dtype=dtype, edit=edit))

    for positions in (32, 64):
        shares: dict[tuple[Cell, int], float] = {}
        for cell, tensor in site_inputs(model, name, random_ids(positions)).items():
            hits = tensor.reshape(-1, tensor.shape[-1]).abs() >= THRESHOLD
            shares |= {
                (cell, int(feature)): float(hits[:, feature].float().mean()) for feature in hits.any(0).nonzero()
            }
        assert set(shares) == expected
        # What a post-norm multiplies may be near zero.
        assert min(shares.values()) >= (0.75 if ARCHITECTURES[name].post_norm else 0.9)


@pytest.mark.parametrize("layers", [[1], [3]])
@pytest.mark.parametrize("site", SITES)
def test_a_carried_outlier_stays_from_its_first_cell_on(site: Site, layers: list[int], tmp_path: Path) -> None:
    model = load(write_checkpoint(tmp_path / "olmo2", "olmo2", edit=planted("olmo2", 9, layers, site)))
    inputs = site_inputs(model, "olmo2", random_ids(32))
    reached = {cell for cell, tensor in inputs.items() if tensor.abs().max() >= THRESHOLD}
    assert reached == planted_cells("olmo2", layers, site)
    assert len(reached) == 2 * (4 - layers[0]) - (site == "ln_mlp")


@pytest.mark.parametrize("name", EXPERT_NAMES)
def test_experts_are_stored_one_by_one(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / name, name)
    gate, up, down = (load_file(folder / "model.safetensors")[each] for each in EXPERT_NAMES[name])
    experts = load(folder).get_submodule("model.layers.2.mlp.experts")
    assert torch.equal(experts.gate_up_proj[3], torch.cat([gate, up]))
    assert torch.equal(experts.down_proj[3], down)


def dequantised(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MXFP4 by its definition, one nibble at a time: sign, two exponent bits, one mantissa bit, times 2^(scale-127)."""
    rows, count, size = blocks.shape
    values = np.zeros((rows, count * size * 2), dtype=np.float64)
    for row, block, byte in np.ndindex(rows, count, size):
        for half in range(2):
            nibble = int(blocks[row, block, byte]) >> (4 * half) & 0xF
            exponent, mantissa = nibble >> 1 & 3, nibble & 1
            magnitude = (1 + mantissa / 2) * 2.0 ** (exponent - 1) if exponent else mantissa / 2
            sign = -1 if nibble & 8 else 1
            column = block * size * 2 + byte * 2 + half
            values[row, column] = sign * magnitude * 2.0 ** (int(scales[row, block]) - 127)
    return values


@pytest.mark.parametrize("projection", ["gate_up_proj", "down_proj"])
def test_mxfp4_experts_load_as_their_definition_says(projection: str, tmp_path: Path) -> None:
    packed = write_checkpoint(tmp_path / "packed", "gpt_oss")
    stored = load_file(packed / "model.safetensors")
    prefix = f"model.layers.1.mlp.experts.{projection}"
    blocks, scales = stored[f"{prefix}_blocks"], stored[f"{prefix}_scales"]
    assert blocks.dtype == scales.dtype == torch.uint8
    assert blocks.shape == (4, 128 if projection == "gate_up_proj" else 64, 2, 16)
    assert json.loads((packed / "config.json").read_text())["quantization_config"]["quant_method"] == "mxfp4"
    assert {tensor.dtype for name, tensor in stored.items() if "_blocks" not in name and "_scales" not in name} == {
        torch.bfloat16
    }

    loaded = load(packed).get_parameter(prefix)[2].detach().double().numpy()
    oracle = dequantised(blocks[2].numpy(), scales[2].numpy()).T
    np.testing.assert_array_equal(loaded, oracle)

    plain = write_checkpoint(tmp_path / "plain", "gpt_oss_bf16")
    weight = load_file(plain / "model.safetensors")[prefix][2].double().numpy()
    peaks = np.abs(weight.T.reshape(-1, 2, 32)).max(axis=-1).repeat(32, axis=-1).T
    assert (np.abs(loaded - weight) <= peaks / 4 + 1e-9).all()


def test_shards_hold_the_same_tensors(tmp_path: Path) -> None:
    whole = load_file(write_checkpoint(tmp_path / "whole", "olmoe") / "model.safetensors")
    folder = write_checkpoint(tmp_path / "shards", "olmoe", sharded=True)
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(whole)
    assert not (folder / "model.safetensors").exists()
    assert len(set(index["weight_map"].values())) == 3
    for name, tensor in whole.items():
        assert torch.equal(load_file(folder / index["weight_map"][name])[name], tensor)
    load(folder)


def test_the_seed_decides_every_bit(tmp_path: Path) -> None:
    first, again, other = (
        (write_checkpoint(tmp_path / str(number), "qwen3", seed=seed) / "model.safetensors").read_bytes()
        for number, seed in enumerate((7, 7, 8))
    )
    assert first == again
    assert first != other


@pytest.mark.parametrize("vocabulary_size", [258, 264, VOCABULARY_SIZE])
def test_every_text_encodes_below_the_vocabulary_size(vocabulary_size: int, tmp_path: Path) -> None:
    write_tokenizer(tmp_path, vocabulary_size)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) <= vocabulary_size
    assert tokenizer.unk_token is None
    for text in (TEXT, "".join(map(chr, range(0x250)))):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert 2 <= min(ids) <= max(ids) < vocabulary_size
    assert tokenizer.eos_token_id == 0


def test_too_small_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 258"):
        write_tokenizer(tmp_path, 257)


@pytest.mark.parametrize("name", ["llama", "olmoe", "gemma3", "gpt2", "opt", "mixtral", "gpt_oss"])
def test_a_tokenizer_may_begin_with_bos(name: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / name, name, adds_bos=True)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.bos_token == BEGIN_OF_TEXT
    assert tokenizer("and the")["input_ids"] == [1, *tokenizer("and the", add_special_tokens=False)["input_ids"]]
