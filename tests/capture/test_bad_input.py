"""Bad models and bad flags: exit status 2, one message that names the value and the way out, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from capture.checkpoint import INDEX
from capture.cli import main
from tests.capture.refused import as_nobody, refused, tree
from tests.checkpoints import MAXIMUM_POSITIONS, write_checkpoint

Refuse = Callable[..., str]


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """A checkpoint for a test to spoil."""
    return shutil.copytree(checkpoint("qwen3"), tmp_path / "model")


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path, monkeypatch: pytest.MonkeyPatch) -> Refuse:
    """Function to the message of a capture of a model with more flags, after which the folder is as it was."""
    monkeypatch.chdir(tmp_path)

    def run(model: object, *arguments: object) -> str:
        before = tree(tmp_path)
        given = ["--text", text, "--sequences", 2, "--length", 16, "-q", *arguments]
        message = refused(capsys, "--model", model, *given)
        assert tree(tmp_path) == before
        return message

    return run


def edit(file: Path, **entries: object) -> None:
    """Replace entries of a JSON file; None removes one."""
    held = {**json.loads(file.read_text()), **entries}
    file.write_text(json.dumps({key: value for key, value in held.items() if value is not None}))


def spoil(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    """Change one tensor of a checkpoint of one file; None removes it."""
    state: dict[str, torch.Tensor | None] = dict(load_file(folder / "model.safetensors"))
    state[name] = change(state[name])
    save_file(
        {key: value for key, value in state.items() if value is not None},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


def test_an_unknown_model(refuse: Refuse) -> None:
    message = refuse("qwen3-30")
    assert message.startswith("--model qwen3-30: no preset, folder or Hub id")
    assert "Did you mean qwen3-30b" in message


LONG = "x" * 5000
SHOWN = "x" * 100 + "..." + "x" * 50 + " (5,000 characters)"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", LONG], f"--model {SHOWN}: no preset, folder or Hub id"),
        (["--model", "~no-such-user/model"], "--model ~no-such-user/model: no preset, folder or Hub id"),
        (["--model", "a\0b"], r"'a\x00b' holds a NUL character"),
        (["--store", LONG], f"cannot write --store {SHOWN}: File name too long: give a shorter path"),
        (["--store", f"runs/{'y' * 252}"], "File name too long: give a shorter path"),
        (["--store", "s3://bucket/a\tb"], r"'s3://bucket/a\tb' is no URL"),
        (["--store", ""], "--store is empty: give a path"),
        (["--text", f"{LONG}.txt"], "(5,004 characters): there is no such file"),
        (["--text", "~no-such-user/prose.txt"], "--text ~no-such-user/prose.txt: there is no such file"),
    ],
    ids=["model", "model of nobody", "NUL", "store", "draft", "URL", "empty", "text", "text of nobody"],
)
def test_a_name_that_nothing_can_have(arguments: list[str], said: str, refuse: Refuse, folder: Path) -> None:
    message = refuse(folder, *arguments)
    assert said in message
    assert len(message) < 800


def test_a_store_that_is_a_link_to_nothing(refuse: Refuse, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link.zarr").symlink_to("nowhere.zarr")
    for more in ([], ["--overwrite"]):
        message = refuse(folder, "--store", "link.zarr", *more)
        assert "--store link.zarr is a link to nowhere.zarr, which is not there" in message


def test_a_folder_without_a_checkpoint(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds no checkpoint: there is no config.json" in refuse(tmp_path / "empty")


def test_a_file_as_model(refuse: Refuse, folder: Path) -> None:
    message = refuse(folder / "model.safetensors")
    assert "model.safetensors is a file; give the folder that holds config.json" in message


def test_a_checkpoint_of_pickles(refuse: Refuse, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    message = refuse(folder)
    assert "only pickled weights (pytorch_model.bin)" in message
    assert "save_pretrained" in message


def test_a_folder_of_gguf_files(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    file = tmp_path / "packed" / "model-Q4_K_M.gguf"
    file.write_bytes(b"GGUF")
    for message in (refuse(tmp_path / "packed"), refuse(file)):
        assert "model-Q4_K_M.gguf" in message
        assert "Use the safetensors checkpoint that it was made from" in message
        assert "gguf_file=name" in message


def test_float8_weights_that_no_configuration_explains(refuse: Refuse, folder: Path) -> None:
    name = "model.layers.2.mlp.down_proj.weight"
    spoil(folder, name, lambda tensor: tensor.to(torch.float8_e4m3fn))
    message = refuse(folder)
    assert f"{name} in model.safetensors: it holds float8_e4m3fn" in message
    assert "config.json names no quantisation" in message


@pytest.mark.parametrize(
    ("name", "dtype", "said"),
    [
        ("mlp.router.weight", torch.int32, "it holds int32, where mxfp4 checkpoints have a float that is no quantised"),
        ("mlp.experts.down_proj_blocks", torch.int8, "it holds int8, where mxfp4 checkpoints have uint8"),
        ("mlp.experts.down_proj_scales", torch.bfloat16, "it holds bfloat16, where mxfp4 checkpoints have uint8"),
    ],
)
def test_a_dtype_that_mxfp4_does_not_explain(
    name: str, dtype: torch.dtype, said: str, refuse: Refuse, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    packed = shutil.copytree(checkpoint("gpt_oss"), tmp_path / "packed")
    full = f"model.layers.1.{name}"
    spoil(packed, full, lambda tensor: tensor.to(dtype))
    for engine in ("resident", "streamed"):
        assert f"{full} in model.safetensors: {said}" in refuse(packed, "--engine", engine)


def test_integers_among_the_experts_are_named(
    refuse: Refuse, checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    mixture = shutil.copytree(checkpoint("mixtral"), tmp_path / "mixture")
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    spoil(mixture, name, lambda tensor: tensor.int())
    assert f"model: {name} in model.safetensors: it holds int32, and config.json names no" in refuse(mixture)


def test_a_missing_shard(refuse: Refuse, tmp_path: Path) -> None:
    sharded = write_checkpoint(tmp_path / "sharded", "qwen3", sharded=True)
    (sharded / "model-00002-of-00003.safetensors").unlink()
    assert "1 of 3 shards" in refuse(sharded)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": "../x.safetensors"}}'],
)
def test_a_corrupt_index(content: str, refuse: Refuse, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(content)
    assert f"{INDEX} is not a readable index of shards" in refuse(folder)


@pytest.mark.parametrize("name", ["config.json", INDEX, "model-00002-of-00003.safetensors", "tokenizer.json"])
def test_a_file_that_may_not_be_read(name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, text: Path) -> None:
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are shut to others
        os.chmod(place, 0o777)
        model = write_checkpoint(Path(place, "model"), "qwen3", sharded=True)
        prose = shutil.copy(text, Path(place, "prose.txt"))
        prose.read_text(encoding="utf-8-sig")  # that codec may lie where nobody may look
        for file in model.iterdir():
            file.chmod(0 if file.name == name else 0o644)
        given = ["--model", model, "--store", Path(place, "run.zarr"), "--text", prose]
        with as_nobody():
            message = refused(capsys, *given, "--sequences", 2, "--length", 16, "-q")
        assert sorted(path.name for path in Path(place).iterdir()) == ["model", "prose.txt"]
    assert name.partition(".")[0] in message
    assert "ermission denied" in message


@pytest.mark.parametrize("kept", [10, 1000, -1])
def test_a_truncated_checkpoint(kept: int, refuse: Refuse, folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    assert "model.safetensors is" in refuse(folder)


def test_a_file_with_bytes_that_are_no_tensors(refuse: Refuse, folder: Path) -> None:
    """safetensors reads none such, and raises an error of its own."""
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")
    assert "the weights cannot be loaded: Error while deserializing header" in refuse(folder, "--engine", "resident")


DOWN = "model.layers.2.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensor: None, f"{DOWN} is missing"),
        (lambda tensor: tensor[:-1].clone(), f"{DOWN} in model.safetensors is [31, 48], not [32, 48]"),
        (lambda tensor: tensor.long(), f"{DOWN} in model.safetensors: it holds int64"),
    ],
    ids=["missing", "shape", "dtype"],
)
def test_a_checkpoint_that_does_not_fill_the_model(
    change: Callable[[torch.Tensor], torch.Tensor | None],
    said: str,
    refuse: Refuse,
    folder: Path,
    text: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Refused by the dry run, too, which prints what it has planned first."""
    spoil(folder, DOWN, change)
    message = refuse(folder)
    assert f"the checkpoint does not fill the model: {said}" in message
    given = ["--model", folder, "--text", text, "--sequences", 2, "--length", 16, "--dry-run"]
    assert main([str(word) for word in given]) == 2
    printed = capsys.readouterr()
    assert "parameters" in printed.out
    assert printed.err == f"capture: error: {message}\n"


@pytest.mark.parametrize(
    "content", ["{", "[]", "", "{}", '{"model_type": "no-such-architecture"}', '{"model_type": 3}']
)
def test_an_unreadable_configuration(content: str, refuse: Refuse, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    assert "config.json is not one transformers can read" in refuse(folder)


@pytest.mark.parametrize("entry", [{"hidden_size": "wide"}, {"num_hidden_layers": -1}, {"num_attention_heads": 0}])
def test_a_configuration_that_makes_no_model(entry: dict[str, object], refuse: Refuse, folder: Path) -> None:
    edit(folder / "config.json", **entry)
    assert str(folder) in refuse(folder)


def test_an_entry_that_contradicts_another(refuse: Refuse, folder: Path) -> None:
    """transformers says in its second line what is wrong."""
    edit(folder / "config.json", num_hidden_layers=6)
    message = refuse(folder)
    assert "`num_hidden_layers` (6) must be equal to the number of `layer_types` (4)" in message


@pytest.mark.parametrize("model_type", ["t5", "clip", "vit"])
def test_a_model_that_predicts_no_next_token(model_type: str, refuse: Refuse, folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    message = refuse(folder)
    assert f"{model_type} is no causal language model" in message


@pytest.mark.parametrize("model_type", ["bert", "roberta", "megatron-bert"])
def test_an_encoder(model_type: str, refuse: Refuse, folder: Path) -> None:
    """transformers makes a causal model of these when asked; a checkpoint of the encoder is none."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    config = {"model_type": model_type, "architectures": ["BertForMaskedLM"], "vocab_size": 320, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    assert f"{model_type} is no causal language model" in refuse(folder)


def test_layers_that_see_more_than_the_tokens(refuse: Refuse, folder: Path) -> None:
    sizes = {"dim_head": 8, "dim_ff": 48, "prompt_length": 4, "vocab_size": 320}
    config = {"model_type": "cpmant", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **sizes}
    (folder / "config.json").write_text(json.dumps(config))
    message = refuse(folder, "--sites", "ln_mlp")
    assert "CpmAntModel gives its layers hidden states of shape (1, 20, 32) for a sequence of 16 tokens" in message


def test_layers_that_run_again(refuse: Refuse, folder: Path) -> None:
    config = {"model_type": "hrm_text", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes = {"head_dim": 8, "intermediate_size": 48, "vocab_size": 320}
    (folder / "config.json").write_text(json.dumps({**config, **sizes}))
    assert "HrmTextForCausalLM runs model.L_module.layers.0 more than once in a forward" in refuse(folder)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "compressed-tensors"])
def test_an_unsupported_quantisation(method: str, refuse: Refuse, folder: Path) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": method, "bits": 4, "load_in_4bit": True})
    message = refuse(folder)
    assert f"quantised with {method}" in message
    assert "Use the checkpoint it was made from" in message


def test_a_tokenizer_of_another_model(refuse: Refuse, folder: Path) -> None:
    """Its ids go beyond the embedding."""
    small = 100
    edit(folder / "config.json", vocab_size=small)
    state = load_file(folder / "model.safetensors")
    state = {name: value[:small].clone() if value.shape[0] == 320 else value for name, value in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    message = refuse(folder)
    assert "its tokenizer is another model's" in message
    assert f"vocabulary ends at {small - 1}" in message


def test_a_folder_without_a_tokenizer(refuse: Refuse, folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "no readable tokenizer" in refuse(folder)


def test_a_window_longer_than_the_positions(refuse: Refuse, folder: Path) -> None:
    message = refuse(folder, "--length", MAXIMUM_POSITIONS + 1)
    assert f"--length {MAXIMUM_POSITIONS + 1} is longer than the {MAXIMUM_POSITIONS} positions" in message
    assert f"use --length {MAXIMUM_POSITIONS} or less" in message


@pytest.mark.parametrize("flag", ["--sequences", "--length", "--batch-size"])
@pytest.mark.parametrize("value", [0, -3])
def test_a_size_below_one(flag: str, value: int, refuse: Refuse, folder: Path) -> None:
    assert refuse(folder, flag, value) == f"{flag} {value}: must be at least 1"


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--sites", "ln_attn,ln_mpl"], ["no site is called 'ln_mpl'", "sites: ln_attn, ln_mlp"]),
        (["--sites", "ln_attn,"], ["no site is called ''"]),
        (["--overlap", "half"], ["--overlap half", "write it like 50%"]),
        (["--overlap", "100%"], ["--overlap 100%", "below 100%"]),
        (["--overlap=-10%"], ["--overlap -10%", "at least 0%"]),
        (["--device", "gpu"], ["--device gpu", "cpu"]),
        (["--device", "cuda:99"], ["--device cuda:99"]),
        (["--device", "cpu:1"], ["--device cpu:1", "one device"]),
        (["--device", "meta"], ["--device meta"]),
        (["--seed", "-1"], ["--seed -1: must be at least 0"]),
        (["--text", "pydoc", "--sequences", "1000000"], ["windows of 16 tokens", "lower --sequences to"]),
        (["--text", "missing.txt"], ["--text missing.txt: there is no such file"]),
        (["--text", "nonsense"], ["--text nonsense", "pydoc"]),
        (["--store", "https://host/run.zarr"], ["--store https://host/run.zarr", "not written; give s3:// or gs://"]),
        (["--store", "s3://bucket"], ["--store s3://bucket", "s3://bucket/NAME.zarr"]),
    ],
)
def test_a_bad_flag(arguments: list[str], parts: list[str], refuse: Refuse, folder: Path) -> None:
    message = refuse(folder, *arguments)
    assert all(part in message for part in parts), message


def test_a_first_token_that_the_tokenizer_lacks(refuse: Refuse, folder: Path) -> None:
    edit(folder / "tokenizer_config.json", bos_token=None)
    assert "--bos always: this tokenizer has no beginning-of-sequence token; use --bos never" in refuse(
        folder, "--bos", "always"
    )


def test_a_site_that_the_model_lacks(refuse: Refuse, checkpoint: Callable[[str], Path]) -> None:
    message = refuse(checkpoint("mamba"), "--sites", "ln_mlp")
    assert "has no module for site ln_mlp" in message
    assert "mixer: MambaMixer" in message
    assert "--sites ln_attn" in message
