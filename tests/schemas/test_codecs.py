"""Stores in every codec that the format allows: whoever reads Zarr reads them, and damage is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from schemas.bits import ENCODINGS
from schemas.codecs import CODECS, DEFAULTS, PEAKS, codec_name, default_codec
from schemas.create import create_run
from schemas.errors import CorruptChunkError
from schemas.layout import Dimensions, plan_arrays
from schemas.run import Run
from schemas.run_writer import RunWriter
from tests.schemas.conftest import patterns, run_info
from tests.schemas.test_other_readers import READERS

SIZES = Dimensions(layers=2, sequences=1, positions=40, features=33)


def made(path: Path, codec: str, bits: str) -> dict[str, Any]:
    """A store whose sites and peaks have that codec, and what was written to them."""
    encoding = ENCODINGS[bits]
    specs = plan_arrays(SIZES, ["ln_attn"], encoding, codecs={"ln_attn": codec, PEAKS: codec})
    create_run(path, run_info(SIZES, bits), specs, {})
    writer, written = RunWriter(path), {}
    for seed, spec in enumerate(specs):
        if "bits" in dict(spec.attributes):
            written[spec.name] = patterns(encoding, spec.shape, seed)
            writer.write(spec.name, (slice(None),), written[spec.name])
    return written


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("codec", CODECS)
def test_every_reader_opens_every_codec(codec: str, reader: Callable[..., Any], tmp_path: Path) -> None:
    for bits in ("bfloat16", "float32"):
        written = made(tmp_path / bits, codec, bits)
        assert len(written) == 3
        for name, values in written.items():
            array = zarr.open_array(tmp_path / bits / name, mode="r")
            assert codec_name(array) == codec
            pattern = f"u{values.itemsize}"
            np.testing.assert_array_equal(reader(tmp_path / bits, name).view(pattern), values.view(pattern))


@pytest.mark.parametrize("codec", CODECS)
def test_no_flipped_bit_is_read(codec: str, tmp_path: Path) -> None:
    written = made(tmp_path / "run", codec, "bfloat16")
    file = tmp_path / "run" / "ln_attn" / "c.1.0.0.0"
    content = file.read_bytes()
    for at in (0, 5, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:at] + bytes([content[at] ^ 16]) + content[at + 1 :])
        with pytest.raises(CorruptChunkError, match="its checksum does not match"):
            Run(tmp_path / "run").read("ln_attn", (1, 0))
    file.write_bytes(content)
    np.testing.assert_array_equal(Run(tmp_path / "run").read("ln_attn", (1, 0)), written["ln_attn"][1, 0])


def test_names_are_what_is_in_the_metadata(tmp_path: Path) -> None:
    made(tmp_path / "run", "zstd-3-shuffle", "float32")
    _, blosc, checksum = json.loads((tmp_path / "run" / "ln_attn" / "zarr.json").read_text())["codecs"]
    assert blosc["configuration"] == {
        "cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": 4, "blocksize": 0
    }  # fmt: skip
    assert checksum["name"] == "crc32c"
    other = json.loads((tmp_path / "run" / "token_id" / "zarr.json").read_text())["codecs"][1]["configuration"]
    assert (other["cname"], other["clevel"], other["shuffle"]) == ("lz4", 5, "bitshuffle")


@pytest.mark.parametrize("bits", ENCODINGS)
def test_defaults_are_codecs_and_are_used(bits: str) -> None:
    assert set(DEFAULTS[bits].values()) <= set(CODECS)
    assert set(DEFAULTS[bits]) <= {"ln_attn", "ln_mlp", "residual", PEAKS}
    sites = ["ln_attn", "ln_mlp", "residual"]
    for spec in plan_arrays(SIZES, sites, ENCODINGS[bits]):
        kind = PEAKS if "sign_cleared" in dict(spec.attributes) else spec.name
        wanted = default_codec(kind, bits) if "bits" in dict(spec.attributes) else "lz4-5-bitshuffle"
        assert spec.codec == wanted, spec.name


def test_a_codec_of_another_writer_is_no_name(tmp_path: Path) -> None:
    for name, codec in (("a", zarr.codecs.ZstdCodec()), ("b", zarr.codecs.BloscCodec(cname="blosclz", clevel=5))):
        array = zarr.create_array(tmp_path / name, shape=(4,), dtype="uint16", compressors=[codec])
        assert codec_name(array) is None
