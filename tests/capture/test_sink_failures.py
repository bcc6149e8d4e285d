"""What a sink does where a writer, the disk or the model fails: the caller is told, and nothing is committed."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas import Run
from schemas.errors import CaptureError, StoreError
from schemas.run_writer import RunWriter
from tests.capture.sinks import (
    SITES,
    SLICE_BYTES,
    SlowWriter,
    empty_store,
    feed,
    sink_of,
    zoo,
)


@pytest.fixture
def store(tmp_path: Path) -> Callable[[str], Path]:
    """Function from an encoding to an empty store of SHAPE."""
    return lambda bits="bfloat16": empty_store(tmp_path, bits)


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
