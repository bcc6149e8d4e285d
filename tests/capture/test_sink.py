"""The sink writes what it was given, in bounded memory, and tells its caller when it can't."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from capture.plan import CapturePlan
from capture.sink import Sink
from capture.sites import Site
from schemas import ENCODINGS, Run
from schemas.create import create_run
from schemas.errors import CaptureError, StoreError
from schemas.layout import Dimensions, plan_arrays
from schemas.run_writer import RunWriter
from tests.capture.made_up import FACTS
from tests.stores import run_info

Array = np.ndarray[Any, Any]

TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NUMPY = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
SITES = ("ln_attn", "ln_mlp")
SHAPE = Dimensions(layers=3, sequences=5, positions=6, features=7)
SLICE_BYTES = SHAPE.positions * SHAPE.features * 2
PLENTY = 2**30
DEADLINE_SECONDS = 30


@pytest.fixture
def store(tmp_path: Path) -> Callable[[str], Path]:
    """Function from an encoding to an empty store of SHAPE."""

    def made(bits: str = "bfloat16") -> Path:
        create_run(tmp_path / "run.zarr", run_info(SHAPE, SITES, bits), plan_arrays(SHAPE, SITES, ENCODINGS[bits]), {})
        return tmp_path / "run.zarr"

    return made


def zoo(bits: str, seed: int = 0) -> Array:
    """Random patterns (site, layer, sequence, position, feature): NaNs of both signs, infinities, zeros, subnormals;
    sequence 0 has small numbers alone, and feature 2 of sequence 1 nothing but NaN."""
    encoding = ENCODINGS[bits]
    generator = np.random.default_rng(seed)
    shape = (len(SITES), SHAPE.layers, SHAPE.sequences, SHAPE.positions, SHAPE.features)
    patterns = generator.integers(0, 2 ** (8 * encoding.itemsize), shape, np.uint64).astype(encoding.unsigned)
    special = [0, encoding.sign_mask, 1, encoding.infinity, encoding.infinity | encoding.sign_mask, encoding.nan]
    special += [encoding.nan | encoding.sign_mask, encoding.infinity | 1, encoding.infinity - 1]
    patterns[:, :, 2].reshape(-1)[: len(special)] = np.array(special, encoding.unsigned)
    patterns[:, :, 3] = generator.choice(np.array(special, encoding.unsigned), patterns[:, :, 3].shape)
    patterns[:, :, 0] &= encoding.unsigned.type(encoding.sign_mask | (encoding.infinity >> 1))
    patterns[:, :, 1, :, 2] = encoding.nan | encoding.sign_mask
    return patterns


def as_tensor(patterns: Array, bits: str) -> torch.Tensor:
    signed = patterns.view(np.dtype(f"i{patterns.itemsize}")).copy()
    return torch.from_numpy(signed).view(TORCH[bits])


def feed(sink: Sink, patterns: Array, bits: str, batch: range, wanted: Sequence[int]) -> None:
    """One batch, its cells in the order of a forward, its losses the number of the sequence."""
    sink.begin(batch, wanted)
    for layer in range(SHAPE.layers):
        for index, site in enumerate(SITES):
            sink.cell(site, layer, as_tensor(patterns[index, layer, batch.start : batch.stop], bits))
    sink.finish(torch.tensor([[float(sequence)] * SHAPE.positions for sequence in batch]))


def sink_of(
    writer: RunWriter, bits: str = "bfloat16", queue_bytes: int = PLENTY, beside: bool = True, **options: Any
) -> Sink:
    sites = tuple(Site(site, ()) for site in SITES)
    encoding = ENCODINGS[bits]
    plan = CapturePlan(FACTS, sites, SHAPE, encoding, 1, plan_arrays(SHAPE, SITES, encoding))
    return Sink(writer, plan, queue_bytes=queue_bytes, beside=beside, **options)


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


class SlowWriter(RunWriter):
    """A writer that writes slices only while ``may_write`` is set."""

    may_write = threading.Event()

    def write(self, name: str, index: Any, values: Any) -> None:
        if name in SITES:
            assert self.may_write.wait(DEADLINE_SECONDS)
        super().write(name, index, values)


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


class FailingWriter(RunWriter):
    """A writer that fails as ``failure`` does from its ``after``-th write on."""

    failure: Callable[[], None]
    after = 0
    writes = 0

    def write_parts(self, name: str, parts: Any) -> None:
        self.writes += 1
        if self.writes > self.after:
            self.failure()
        super().write_parts(name, parts)


def no_space() -> None:
    """What the kernel says of a full disk."""
    with open("/dev/full", "wb", buffering=0) as stream:
        stream.write(b"0")


def refused() -> None:
    raise StoreError("not so")


def broken() -> None:
    raise ZeroDivisionError("in a writer thread")


FAILURES: list[tuple[Callable[[], None], type[Exception], str]] = [
    (no_space, CaptureError, r"the disk is full: .*run\.zarr.*make room and run the same command again"),
    (refused, StoreError, "not so"),
    (broken, ZeroDivisionError, "in a writer thread"),
]


@pytest.mark.parametrize(("failure", "kind", "message"), FAILURES)
@pytest.mark.parametrize(("after", "beside"), [(0, True), (3, True), (10, True), (3, False), (10, False)])
def test_a_failure_of_a_writer_thread_reaches_the_model(
    after: int,
    beside: bool,
    failure: Callable[[], None],
    kind: type[Exception],
    message: str,
    store: Callable[..., Path],
) -> None:
    writer = FailingWriter(store())
    writer.failure, writer.after = failure, after
    batches: list[int] = []

    def model() -> None:
        with sink_of(writer, queue_bytes=SLICE_BYTES, beside=beside) as sink:
            for number in range(10_000):  # it would go on for long
                feed(sink, zoo("bfloat16"), "bfloat16", range(1), [0])
                batches.append(number)

    with pytest.raises(kind, match=message):
        model()
    assert len(batches) < 5
    assert writer.writes <= after + 8  # as many at once
    assert not Run(writer.path).committed().any()


@pytest.mark.parametrize(("failure", "kind", "message"), FAILURES)
def test_a_failure_after_the_last_batch_is_raised_on_leaving(
    failure: Callable[[], None], kind: type[Exception], message: str, store: Callable[..., Path]
) -> None:
    class FailingCommit(RunWriter):
        def commit(self, layers: Any, sequences: Any) -> None:
            failure()

    path = store()
    with pytest.raises(kind, match=message), sink_of(FailingCommit(path)) as sink:
        feed(sink, zoo("bfloat16"), "bfloat16", range(1), [0])
    assert not Run(path).committed().any()


def test_a_file_system_that_refuses_a_chunk_is_named_and_commits_nothing(store: Callable[..., Path]) -> None:
    path = store()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = RunWriter(path)
    message = r"cannot write to .*run\.zarr: File too large"
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, hard))  # smaller than any chunk
    try:
        with pytest.raises(CaptureError, match=message), sink_of(writer) as sink:
            feed(sink, zoo("bfloat16"), "bfloat16", range(2), [0, 1])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not Run(path).committed().any()
    with sink_of(RunWriter(path)) as sink:  # and now there is room
        feed(sink, zoo("bfloat16"), "bfloat16", range(2), [0, 1])
    np.testing.assert_array_equal(Run(path).read("ln_mlp", (slice(None), 1)), zoo("bfloat16")[1, :, 1])


def test_an_error_of_the_model_drops_what_waits_and_is_not_replaced(store: Callable[..., Path]) -> None:
    writer = SlowWriter(store())
    writer.may_write = threading.Event()

    def model() -> None:
        with sink_of(writer, threads=1) as sink:
            feed(sink, zoo("bfloat16"), "bfloat16", range(2), [0, 1])
            threading.Timer(0.05, writer.may_write.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model()
    assert not Run(writer.path).committed().any()
    slices = [file for site in SITES for file in Path(writer.path, site).glob("c.*")]
    assert len(slices) <= 2  # the one under way; its batch has two sequences


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
