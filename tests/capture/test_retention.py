"""``--keep``: with a floor or without slices everything else stays exact, and a store says what it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from capture.part import Part
from capture.plan import CapturePlan, describe_plan, human_bytes, make_plan, shortfalls
from capture.sink import Sink
from capture.sites import Site
from schemas import ENCODINGS, Run
from schemas.create import create_run
from schemas.layout import plan_arrays
from schemas.retention import Retention, parse_retention
from schemas.run_writer import RunWriter
from tests.capture.captures import POSITIONS, SEQUENCES, capture, contents
from tests.capture.made_up import FACTS
from tests.capture.refused import refused
from tests.capture.test_sink import NUMPY, SHAPE, SITES, feed, zoo
from tests.stores import run_info

FLAGS = ("--sequences", SEQUENCES, "--length", POSITIONS)


def arrays_but_slices(run: Run) -> dict[str, bytes]:
    return {name: run.read(name).tobytes() for name in run.group.array_keys() if name not in run.info.sites}


@pytest.mark.parametrize("floor", ["6", "1e-40", "0.1", "1e59"])
@pytest.mark.parametrize("bits", ENCODINGS)
def test_values_below_the_floor_are_zero_and_all_others_as_they_were(bits: str, floor: str, tmp_path: Path) -> None:
    encoding, patterns = ENCODINGS[bits], zoo(bits)
    runs = {}
    shape = (SHAPE.sequences, SHAPE.positions)
    tokens = {"token_id": np.zeros(shape, np.int32), "token_mask": np.zeros(shape, np.uint8)}
    for name, retention in (("whole", Retention()), ("floored", parse_retention(f"floor={floor}"))):
        info = run_info(SHAPE, SITES, bits, retention=str(retention))
        specs = plan_arrays(SHAPE, SITES, encoding)
        create_run(tmp_path / name, info, specs, tokens)
        sites = tuple(Site(site, ()) for site in SITES)
        with Sink(
            RunWriter(tmp_path / name), CapturePlan(FACTS, sites, SHAPE, encoding, 1, specs, retention=retention)
        ) as sink:
            for batch in (range(3), range(3, 5)):
                feed(sink, patterns, bits, batch, range(5))
        runs[name] = Run(tmp_path / name)
    assert arrays_but_slices(runs["floored"]) == arrays_but_slices(runs["whole"])
    with np.errstate(invalid="ignore"):  # signalling NaNs
        values = patterns.view(NUMPY[bits]).astype(np.float32).astype(np.float64)
    below = np.isfinite(values) & (np.abs(values) < float(floor))
    assert below.any()
    assert not below.all()
    for index, site in enumerate(SITES):
        expected = np.where(below[index], patterns.dtype.type(0), patterns[index])
        np.testing.assert_array_equal(runs["floored"].read(site).view(patterns.dtype), expected)


@pytest.mark.parametrize("engine", ["resident", "streamed"])
def test_a_capture_keeps_what_was_asked(
    engine: str, checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, captured: Callable[..., Run]
) -> None:
    whole = captured("qwen3_moe")
    for keep in ("floor=0.75", "peaks"):
        store = tmp_path / f"{keep}.zarr"
        flags = ("--keep", keep, "--engine", engine)
        assert capture(checkpoint("qwen3_moe"), store, text, *FLAGS, *flags) == 0
        run = Run(store)
        assert run.committed().all()
        assert (run.info.retention, run.info.signature["retention"]) == (keep, keep)
        assert arrays_but_slices(run) == arrays_but_slices(whole)
    for site in ("ln_attn", "ln_mlp"):
        stored = whole.read(site).view(NUMPY["bfloat16"]).astype(np.float32)
        kept = Run(tmp_path / "floor=0.75.zarr").read(site).view(NUMPY["bfloat16"]).astype(np.float32)
        np.testing.assert_array_equal(kept, np.where(np.abs(stored) < 0.75, 0, stored))
        assert 0 < np.count_nonzero(kept) < np.count_nonzero(stored)
        assert not (tmp_path / "peaks.zarr" / site).exists()


def test_what_is_kept_is_printed(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture(checkpoint("llama"), tmp_path / "run.zarr", text, *FLAGS, "--keep", "floor=2.50") == 0
    assert "\nkeep         floor=2.5\n" in capsys.readouterr().out
    assert capture(checkpoint("llama"), tmp_path / "whole.zarr", text, *FLAGS) == 0
    assert "keep" not in capsys.readouterr().out


def test_a_store_is_continued_with_what_it_keeps(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "run.zarr"
    folder = checkpoint("qwen3")
    assert capture(folder, store, text, *FLAGS, "--keep", "floor=2") == 0
    before = contents(store)
    message = refused(capsys, "--model", folder, "--store", store, "--text", text, *FLAGS, "--keep", "floor=3")
    assert "  retention: 'floor=2' in the store, 'floor=3' now" in message.splitlines()
    assert "--keep floor=2" in message
    assert contents(store) == before
    (store / "committed" / "c.0.1").unlink()
    assert capture(folder, store, text, *FLAGS, "--keep", "floor=2.0") == 0
    assert contents(store) == before


def test_a_complete_store_of_format_1_0_is_complete(
    checkpoint: Callable[[str], Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "run.zarr"
    assert capture(checkpoint("qwen3"), store, text, *FLAGS) == 0
    root = json.loads((store / "zarr.json").read_text())
    root["attributes"]["format_version"] = "1.0"
    del root["attributes"]["retention"], root["attributes"]["signature"]["retention"]
    (store / "zarr.json").write_text(json.dumps(root))
    assert capture(checkpoint("qwen3"), store, text, *FLAGS) == 0
    message = refused(capsys, "--model", checkpoint("qwen3"), "--store", store, "--text", text, *FLAGS, "--keep=peaks")
    assert "  retention: 'slices' in the store, 'peaks' now" in message.splitlines()


def plan_keeping(keep: str) -> CapturePlan:
    sites = (Site("ln_attn", ("layers.0.attn", "layers.1.attn")),)
    facts = replace(FACTS, hidden_size=512)
    sizes = {"part": Part(0, 3, 3), "length": 64, "batch_size": 1}
    return make_plan(facts, sites, ENCODINGS["bfloat16"], **sizes, retention=parse_retention(keep))  # type: ignore[arg-type]


def test_a_plan_tells_what_can_be_told() -> None:
    whole, floor, peaks = map(plan_keeping, ("slices", "floor=4", "peaks"))
    slices = 2 * 3 * 64 * 512 * 2
    assert [plan.raw_bytes - whole.raw_bytes for plan in (floor, peaks)] == [0, -slices]
    assert floor.expected_bytes == whole.expected_bytes
    assert floor.certain_bytes == peaks.expected_bytes == peaks.certain_bytes

    def rows(plan: CapturePlan) -> dict[str, str]:
        told = describe_plan(plan, model="m", store="s", device="cpu", available_bytes=None, disk_free_bytes=0)
        return dict(line.split(maxsplit=1) for line in told.splitlines())

    most = human_bytes(whole.expected_bytes)
    assert rows(whole)["keep"] == "slices whole, and peaks"
    assert f"raw, about {most} compressed" in rows(whole)["store"]
    assert rows(floor)["keep"].startswith("slices, values below 4 zeroed")
    assert f"raw, at most about {most} compressed" in rows(floor)["store"]
    assert rows(peaks)["keep"] == "exact peaks alone, no slices"
    assert f"{human_bytes(peaks.raw_bytes)} raw, about" in rows(peaks)["store"]


def test_a_disk_too_small_for_whole_slices_may_do_for_a_floor() -> None:
    whole, floor, peaks = map(plan_keeping, ("slices", "floor=4", "peaks"))
    free = peaks.expected_bytes
    assert shortfalls(floor, None, free) == shortfalls(peaks, None, free) == []
    (reason,) = shortfalls(whole, None, free)
    assert "--keep floor=M or --keep peaks" in reason
    (reason,) = shortfalls(floor, None, free - 1)
    assert "--keep" not in reason
