"""Hidden states kept beside a store: whose they are, what they vouch for, and when they go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from capture.resume import LayerCheckpoints, publish
from schemas import ENCODINGS
from schemas.create import create_run
from schemas.layout import Dimensions, plan_arrays
from schemas.run_writer import RunWriter
from tests.stores import run_info

SHAPE = Dimensions(layers=3, sequences=4, positions=6, features=7)
SITES = ("ln_attn", "ln_mlp")
EMPTY = torch.zeros(2, 6, 7, dtype=torch.bfloat16)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    create_run(tmp_path / "run.zarr", run_info(SHAPE, SITES), plan_arrays(SHAPE, SITES, ENCODINGS["bfloat16"]), {})
    return tmp_path / "run.zarr"


def keep(checkpoints: LayerCheckpoints, batch: range, wanted: list[int], done: int, value: float) -> None:
    hidden = torch.full((len(batch), 6, 7), value, dtype=torch.bfloat16)
    peaks = {site: torch.full((len(batch), 6, 7), int(value), dtype=torch.int16) for site in SITES}
    draft = checkpoints.draft(batch, wanted, done, hidden, peaks)
    assert draft.size_bytes == 3 * hidden.nbytes
    hidden.fill_(-1)  # the model goes on
    draft.write()
    publish([draft])


def test_what_was_kept_is_found_again(store: Path) -> None:
    keep(LayerCheckpoints(RunWriter(store)), range(2), [0, 1], 1, 5.0)
    keep(LayerCheckpoints(RunWriter(store)), range(2), [0, 1], 2, 7.0)
    done, hidden, peaks = LayerCheckpoints(RunWriter(store)).load(range(2), [0, 1], EMPTY, SITES)
    assert done == 2
    assert (hidden == 7).all()
    assert sorted(peaks) == sorted(SITES)
    assert all((peak == 7).all() for peak in peaks.values())


@pytest.mark.parametrize(
    ("batch", "wanted", "hidden"),
    [
        (range(2, 4), [2, 3], EMPTY),
        (range(2), [0], EMPTY),  # made while another sequence of the batch was written
        (range(2), [1], EMPTY),
        (range(2), [0, 1], EMPTY.float()),
        (range(2), [0, 1], EMPTY[:, :3]),
    ],
)
def test_what_is_another_batchs_is_not_taken(
    batch: range, wanted: list[int], hidden: torch.Tensor, store: Path
) -> None:
    keep(LayerCheckpoints(RunWriter(store)), range(2), [0, 1], 2, 7.0)
    done, same, peaks = LayerCheckpoints(RunWriter(store)).load(batch, wanted, hidden, SITES)
    assert (done, peaks) == (0, {})
    assert same is hidden


@pytest.mark.parametrize("damage", [b"", b"not safetensors", None])
def test_a_damaged_file_counts_as_none(damage: bytes | None, store: Path) -> None:
    keep(LayerCheckpoints(RunWriter(store)), range(2), [0, 1], 2, 7.0)
    (file,) = (store / ".resume").iterdir()
    file.write_bytes(file.read_bytes()[:-1] if damage is None else damage)
    assert LayerCheckpoints(RunWriter(store)).load(range(2), [0, 1], EMPTY, SITES)[0] == 0


@pytest.mark.parametrize("where", [b'"done":"2', b"\x07\x00", b"\xe0\x40"])  # in the header, a peak, hidden states
def test_one_flipped_bit_counts_as_none(where: bytes, store: Path) -> None:
    keep(LayerCheckpoints(RunWriter(store)), range(2), [0, 1], 2, 7.0)
    (file,) = (store / ".resume").iterdir()
    data = bytearray(file.read_bytes())
    data[data.rindex(where) + len(where) - 1] ^= 1
    file.write_bytes(data)
    assert LayerCheckpoints(RunWriter(store)).load(range(2), [0, 1], EMPTY, SITES)[0] == 0


def test_a_worker_deletes_its_own_and_the_last_one_the_folder(store: Path) -> None:
    writers = RunWriter(store), RunWriter(store)
    first, second = map(LayerCheckpoints, writers)
    keep(first, range(2), [0, 1], 1, 5.0)
    keep(second, range(2, 4), [2], 1, 6.0)
    keep(second, range(2, 4), [3], 1, 7.0)  # two workers may share a batch
    assert len(list((store / ".resume").iterdir())) == 3
    writers[0].commit(range(3), [0, 1])
    first.remove()
    kept = [LayerCheckpoints(writers[1]).load(range(2, 4), [s], EMPTY, SITES)[1].float().mean() for s in (2, 3)]
    assert kept == [6.0, 7.0]
    (store / ".resume" / "0-2.0-1.partial").touch()  # of a worker that was killed
    writers[1].commit(range(3), [2, 3])
    second.remove()
    assert not (store / ".resume").exists()
