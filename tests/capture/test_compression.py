"""``--codec``: what it takes, that it changes no number, and that a store keeps the codecs that it began with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from capture.compression import parse_codecs
from schemas import Run
from schemas.codecs import CODECS, codec_name
from schemas.errors import InputError
from tests.capture.captures import POSITIONS, SEQUENCES, capture, contents
from tests.capture.refused import refused

SITES = ("ln_attn", "residual")
FLAGS = ("--sequences", SEQUENCES, "--length", POSITIONS)


@pytest.mark.parametrize(
    ("text", "codecs"),
    [
        (None, {}),
        ("zstd-1-shuffle", dict.fromkeys(["ln_attn", "residual", "peaks"], "zstd-1-shuffle")),
        ("residual=zstd-3-shuffle", {"residual": "zstd-3-shuffle"}),
        (
            "residual=lz4-1-shuffle, peaks=zstd-5-bitshuffle",
            {"residual": "lz4-1-shuffle", "peaks": "zstd-5-bitshuffle"},
        ),
        (
            "peaks=lz4-9-bitshuffle,zstd-1-shuffle",
            {"ln_attn": "zstd-1-shuffle", "residual": "zstd-1-shuffle", "peaks": "lz4-9-bitshuffle"},
        ),
    ],
)
def test_what_a_codec_is_asked_for(text: str | None, codecs: dict[str, str]) -> None:
    assert parse_codecs(text, SITES) == codecs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gzip", f"no codec is called 'gzip'; there are: {', '.join(CODECS)}"),
        ("ln_attn=zstd", "no codec is called 'zstd'; there are: lz4-1-bitshuffle"),
        ("", "no codec is called ''"),
        ("ln_mlp=zstd-3-shuffle", "'ln_mlp' is not stored here; there are: ln_attn, residual, peaks"),
        ("token_id=zstd-3-shuffle", "'token_id' is not stored here"),
        ("zstd-3-shuffle,zstd-1-shuffle", "all is given two codecs"),
        ("peaks=zstd-3-shuffle,peaks=zstd-1-shuffle", "peaks is given two codecs"),
    ],
)
def test_what_is_no_codec(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_codecs(text, SITES)
    assert f"--codec {text}: {message}" in str(error.value)


def codecs_in(store: Path) -> dict[str, str | None]:
    run = Run(store)
    return {name: codec_name(run.array(name)) for name in run.group.array_keys()}


def test_a_codec_decides_no_number_and_is_kept(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plain, other = checkpoint("qwen3"), tmp_path / "plain.zarr", tmp_path / "other.zarr"
    asked = ("--codec", "zstd-5-shuffle,ln_mlp=lz4-1-shuffle")
    assert capture(folder, plain, text, *FLAGS) == 0
    assert capture(folder, other, text, *FLAGS, *asked, "--dry-run") == 0
    assert "codec       zstd-5-shuffle: ln_attn, peaks; lz4-1-shuffle: ln_mlp\n" in capsys.readouterr().out
    assert capture(folder, other, text, *FLAGS, *asked) == 0
    one, two = Run(plain), Run(other)
    assert one.info.signature == two.info.signature
    for name in one.group.array_keys():
        assert one.read(name).tobytes() == two.read(name).tobytes(), name
    codecs = codecs_in(other)
    assert (codecs["ln_attn"], codecs["ln_mlp"], codecs["ln_mlp_layer_peak"]) == (
        "zstd-5-shuffle",
        "lz4-1-shuffle",
        "zstd-5-shuffle",
    )

    whole = contents(other)
    for again in ((), asked, ("--codec", "peaks=zstd-5-shuffle")):
        (other / "committed" / "c.0.1").unlink()
        (other / "ln_mlp" / "c.0.1.0.0").unlink()
        assert capture(folder, other, text, *FLAGS, *again) == 0
        assert contents(other) == whole
    capsys.readouterr()
    assert capture(folder, other, text, *FLAGS, "--dry-run") == 0
    assert "zstd-5-shuffle: ln_attn, peaks; lz4-1-shuffle: ln_mlp" in capsys.readouterr().out
    (other / "committed" / "c.0.1").unlink()
    flags = ["--model", folder, "--store", other, "--text", text, *FLAGS]
    message = refused(capsys, *flags, "--codec", "ln_mlp=zstd-5-shuffle")
    assert "has ln_mlp in lz4-1-shuffle, not zstd-5-shuffle" in message
    assert "Leave out --codec to continue it" in message


def test_a_codec_of_a_site_that_is_another_one_is_refused(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--model",
        checkpoint("qwen3"),
        "--store",
        tmp_path / "run.zarr",
        "--text",
        text,
        *FLAGS,
        "--sites",
        "ln_mlp",
    ]
    assert "there are: ln_mlp, peaks" in refused(capsys, *flags, "--codec", "ln_attn=zstd-1-shuffle")
    assert not (tmp_path / "run.zarr").exists()


def test_a_codec_of_slices_that_are_not_kept_is_refused(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--keep", "peaks", "--codec", "ln_attn=zstd-1-shuffle")
    assert capture(checkpoint("llama"), tmp_path / "run.zarr", text, "--length", 8, *options) == 2
    assert "'ln_attn' is not stored here; there are: peaks" in capsys.readouterr().err
