"""The sink writes what it was given, in bounded memory, and tells its caller when it can't."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from schemas import ENCODINGS, Run
from schemas.errors import CaptureError
from schemas.run_writer import RunWriter
from tests.capture.sinks import (
    DEADLINE_SECONDS,
    NUMPY,
    SHAPE,
    SITES,
    SLICE_BYTES,
    SlowWriter,
    as_tensor,
    empty_store,
    feed,
    sink_of,
    zoo,
)


@pytest.fixture
def store(tmp_path: Path) -> Callable[[str], Path]:
    """Function from an encoding to an empty store of SHAPE."""
    return lambda bits="bfloat16": empty_store(tmp_path, bits)


WRITERS = [(1, True), (4, True), (2, False)]
"""Threads, and whether they write beside the model."""


@pytest.mark.parametrize(("threads", "beside"), WRITERS)
@pytest.mark.parametrize("bits", ENCODINGS)
def test_what_is_written_is_what_was_given(bits: str, threads: int, beside: bool, store: Callable[..., Path]) -> None:
    patterns, path = zoo(bits), store(bits)
    commits: list[int] = []
    with sink_of(RunWriter(path), bits, threads=threads, beside=beside, committed=commits.append) as sink:
        for batch in (range(2), range(2, 4), range(4, 5)):
            feed(sink, patterns, bits, batch, range(5))
    run = Run(path)
    assert sorted(commits) == [1, 2, 2]
    assert run.committed().all()
    np.testing.assert_array_equal(run.read("token_nll"), np.arange(5)[:, None] * np.ones(SHAPE.positions))
    values = patterns.view(NUMPY[bits]).astype(np.float32)
    magnitude = np.where(np.isnan(values), 0, np.abs(values))
    for index, site in enumerate(SITES):
        np.testing.assert_array_equal(run.read(site).view(patterns.dtype), patterns[index])
        for name, axis in ((f"{site}_layer_peak", 2), (f"{site}_position_peak", 0)):
            peaks = np.ascontiguousarray(run.read(name)).view(NUMPY[bits]).astype(np.float32)
            np.testing.assert_array_equal(peaks, magnitude[index].max(axis=axis), err_msg=name)
            assert not np.signbit(peaks).any()
        counts = (~np.isfinite(values[index])).sum(axis=(2, 3))
        np.testing.assert_array_equal(run.read(f"{site}_nonfinite"), counts)
        assert not counts[:, 0].any()
        assert counts[:, 3].all()


def test_only_wanted_sequences_are_written(store: Callable[..., Path]) -> None:
    patterns, path = zoo("bfloat16"), store()
    with sink_of(RunWriter(path)) as sink:
        feed(sink, patterns, "bfloat16", range(3), [1])
        feed(sink, patterns, "bfloat16", range(3, 5), [4, 1])
    run = Run(path)
    assert run.complete_sequences() == [1, 4]
    written = {int(file.name.split(".")[2]) for file in (path / "ln_mlp").glob("c.*")}
    assert written == {1, 4}
    for sequence in (1, 4):
        np.testing.assert_array_equal(run.read("ln_attn", (slice(None), sequence)), patterns[0, :, sequence])
        assert (run.read("token_nll", (sequence,)) == sequence).all()


def test_where_the_model_takes_all_processors_slices_are_written_when_its_batch_ends(
    store: Callable[..., Path],
) -> None:
    path, patterns = store(), zoo("bfloat16")
    with sink_of(RunWriter(path), beside=False) as sink:
        sink.begin(range(2), [0, 1])
        for layer in range(SHAPE.layers):
            for index, site in enumerate(SITES):
                sink.cell(site, layer, as_tensor(patterns[index, layer, :2], "bfloat16"))
        assert not list(path.glob("ln_*/c.*"))
        sink.finish(torch.zeros(2, SHAPE.positions))
        assert len(list(path.glob("ln_mlp/c.*"))) == 2 * SHAPE.layers
    np.testing.assert_array_equal(Run(path).read("ln_mlp", (slice(None), 1)), patterns[1, :, 1])


def test_a_tensor_changed_in_place_afterwards_is_stored_as_it_was(store: Callable[..., Path]) -> None:
    writer = SlowWriter(store())
    writer.may_write = threading.Event()
    tensors = [torch.full((1, 6, 7), float(number), dtype=torch.bfloat16) for number in range(6)]
    with sink_of(writer) as sink:
        sink.begin(range(1), [0])
        for number, tensor in enumerate(tensors):
            sink.cell(SITES[number % 2], number // 2, tensor)
            tensor.fill_(99)
        writer.may_write.set()
        sink.finish(torch.zeros(1, 6))
    for number in range(6):
        stored = Run(writer.path).read(SITES[number % 2], (number // 2, 0))
        assert (stored.view(ml_dtypes.bfloat16) == number).all()


@pytest.mark.parametrize("beside", [True, False])
@pytest.mark.parametrize(("queue_slices", "taken"), [(4, 4), (0.5, 1)])
def test_a_slow_disk_makes_the_model_wait(
    queue_slices: float, taken: int, beside: bool, store: Callable[..., Path]
) -> None:
    writer = SlowWriter(store())
    writer.may_write = threading.Event()
    fed: list[int] = []
    with sink_of(writer, queue_bytes=int(queue_slices * SLICE_BYTES), threads=2, beside=beside) as sink:

        def model() -> None:
            sink.begin(range(1), [0])
            for number in range(6):
                sink.cell(SITES[number % 2], number // 2, torch.zeros(1, 6, 7, dtype=torch.bfloat16))
                fed.append(number)

        thread = threading.Thread(target=model)
        thread.start()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while len(fed) < taken and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.2)  # as long as the disk stands still, so does the model
        assert len(fed) == taken
        writer.may_write.set()
        thread.join(DEADLINE_SECONDS)
        assert len(fed) == 6
        sink.finish(torch.zeros(1, 6))
    assert Run(writer.path).complete_sequences() == [0]


class CheckingWriter(RunWriter):
    """A writer that takes its time over slices, and looks, at each commit, for the chunks that it vouches for."""

    commits = 0
    absent: Sequence[str] = ()

    def write(self, name: str, index: Any, values: Any) -> None:
        time.sleep(0.02 if name in SITES else 0)
        super().write(name, index, values)

    def commit(self, layers: Any, sequences: Any) -> None:
        wanted = [f"{site}/c.{layer}.{s}.0.0" for site in SITES for layer in layers for s in sequences]
        wanted += [f"{site}_layer_peak/c.{layer}.{s}.0" for site in SITES for layer in layers for s in sequences]
        wanted += [f"{site}_position_peak/c.{s}.0.0" for site in SITES for s in sequences]
        wanted += [f"{site}_nonfinite/c.0.{s}" for site in SITES for s in sequences]
        wanted += [f"token_nll/c.{s}.0" for s in sequences]
        self.absent = (*self.absent, *(name for name in wanted if not Path(self.path, name).exists()))
        self.commits += 1
        super().commit(layers, sequences)


@pytest.mark.parametrize(("threads", "beside"), WRITERS)
def test_a_commit_comes_after_all_its_data(threads: int, beside: bool, store: Callable[..., Path]) -> None:
    writer = CheckingWriter(store())
    with sink_of(writer, threads=threads, beside=beside) as sink:
        for start in range(5):
            feed(sink, zoo("bfloat16"), "bfloat16", range(start, start + 1), range(5))
    assert writer.absent == ()
    assert writer.commits == 5
    assert Run(writer.path).committed().all()


class StallingWriter(RunWriter):
    """Writes nothing of layer 0 before it is told to."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.go_on = threading.Event()

    def write(self, name: str, index: Any, values: Any) -> None:
        if name in SITES and index[0] == 0:
            self.go_on.wait(DEADLINE_SECONDS)
        super().write(name, index, values)


def test_a_layer_is_committed_after_those_before_it(store: Callable[..., Path]) -> None:
    """What a run goes on from after a crash vouches for all layers up to its own."""
    writer = StallingWriter(store())
    hidden, commits = torch.zeros(1, 6, 7, dtype=torch.bfloat16), []
    with sink_of(writer, threads=6, beside=True) as sink:
        peaks: dict[str, torch.Tensor] = {}
        for layer in range(2):
            sink.begin(range(1), [0], peaks)
            for site in SITES:
                sink.cell(site, layer, hidden)
            peaks = sink.position_peaks
            sink.finish_layer(layer, None)
            commits.append(sink.settle())
        time.sleep(0.2)
        assert not commits[1].done()
        assert not Run(writer.path).committed().any()
        writer.go_on.set()
        commits[1].result(DEADLINE_SECONDS)
    assert Run(writer.path).committed()[:2, 0].all()


def test_layers_out_of_order_are_refused(store: Callable[..., Path]) -> None:
    hidden = torch.zeros(1, 6, 7, dtype=torch.bfloat16)
    with sink_of(RunWriter(store())) as sink:
        sink.begin(range(1), [0])
        sink.cell("ln_mlp", 0, hidden)
        with pytest.raises(CaptureError, match="ln_mlp: layer 2 came where layer 1 was due"):
            sink.cell("ln_mlp", 2, hidden)
        with pytest.raises(CaptureError, match="ln_mlp: layer 0 came where layer 1 was due"):
            sink.cell("ln_mlp", 0, hidden)


def test_tensors_that_are_not_contiguous(store: Callable[..., Path]) -> None:
    path, patterns = store(), zoo("bfloat16")
    with sink_of(RunWriter(path)) as sink:
        sink.begin(range(2), [0, 1])
        for layer in range(SHAPE.layers):
            for index, site in enumerate(SITES):
                turned = as_tensor(patterns[index, layer, :2].swapaxes(0, 2), "bfloat16").transpose(0, 2)
                assert not turned.is_contiguous()
                sink.cell(site, layer, turned)
        sink.finish(torch.zeros(2, 6))
    np.testing.assert_array_equal(Run(path).read("ln_attn", (slice(None), slice(0, 2))), patterns[0, :, :2])
