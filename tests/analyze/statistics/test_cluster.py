"""A real scheduler with two workers on loopback gives the digits that threads give; one that is not there is named."""

from __future__ import annotations

import gc
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import distributed
import numpy as np
import pytest

from analyze.resources import Resources
from analyze.statistics import cluster as clusters
from analyze.statistics.cluster import Cluster, ClusterError
from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.moments import Moments
from analyze.statistics.peaks import LayerPeaks, PositionPeaks
from analyze.thresholds.answers import answer
from analyze.thresholds.question import ask
from schemas.errors import CorruptChunkError, InputError, StoreError
from schemas.run import Run
from tests.analyze.comparison import content
from tests.analyze.conftest import Command
from tests.stores import write_store

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
STATISTICS = [Moments(), Exceedances(("2", "6")), PositionPeaks(), LayerPeaks()]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The scheduler file of a cluster of two worker processes."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    flags = ["--no-dashboard", "--scheduler-file", str(file)]
    started = [
        subprocess.Popen(
            [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *flags], stderr=subprocess.DEVNULL, cwd=folder
        )
    ]
    try:
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        worker = [*dask, "worker", "--nthreads", "1", "--local-directory", str(folder), *flags]
        started += [subprocess.Popen(worker, stderr=subprocess.DEVNULL, cwd=folder) for _ in range(2)]
        yield file
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores") / "run.zarr"
    values = {
        site: np.random.default_rng(i).standard_t(3, (4, 3, 10, 8)).astype(np.float32) * 3
        for i, site in enumerate(("ln_attn", "ln_mlp"))
    }
    write_store(path, values, position_chunk=4)
    return path


def test_a_cluster_gives_the_same_digits(cluster: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analyze.statistics.pass_plan._BLOCK_BYTES", 2000)
    monkeypatch.setattr("analyze.statistics.pass_plan._WAVE_SEQUENCES", 2)
    here = measure(Run(store), STATISTICS, threads=1, cache=False)
    there = measure(Run(store), STATISTICS, scheduler=str(cluster), cache=False)
    for name in here:
        assert here[name].identical(there[name])


def test_answers_from_slices_are_the_same(cluster: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    question = ask("2:8:1", engine="slices", details=True)
    here = answer(store, question)
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", __import__("json").loads(cluster.read_text())["address"])
    there = answer(store, question)
    assert [content(result) for result in here] == [content(result) for result in there]
    assert here[0].outliers > 0


def test_a_worker_names_a_damaged_chunk(cluster: Path, store: Path, tmp_path: Path) -> None:
    write_store(tmp_path / "run.zarr", {"ln_attn": np.ones((2, 2, 3, 4), np.float32)})
    (tmp_path / "run.zarr/ln_attn/c.1.0.0.0").write_bytes(b"no chunk")
    with pytest.raises(CorruptChunkError, match=r"^on worker .*layer 1, sequence 0"):
        measure(Run(tmp_path / "run.zarr"), [Moments()], scheduler=str(cluster), cache=False)
    found = measure(Run(tmp_path / "run.zarr"), [Moments()], scheduler=str(cluster), skip_corrupt=True)["moments"]
    assert found.attrs["excluded"] == ["ln_attn, layer 1, sequence 0"]


def test_workers_read_the_very_same_store_or_say_that_they_do_not(
    cluster: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path that leads each process into its own folder: as a path does on machines that share no file system."""
    monkeypatch.chdir(store.parent)
    here = measure(Run(store), [Moments()], cache=False)["moments"]
    assert measure(Run("run.zarr"), [Moments()], scheduler=str(cluster), cache=False)["moments"].identical(here)
    own = Run("/proc/self/cwd/run.zarr")
    with pytest.raises(StoreError, match=r"^on worker .*/proc/self/cwd/run.zarr does not exist"):
        measure(own, [Moments()], scheduler=str(cluster))
    there = cluster.parent / "run.zarr"
    values = np.ones((4, 3, 10, 8), np.float32)
    write_store(there, {"ln_attn": values, "ln_mlp": values}, position_chunk=4)  # the same provenance, other values
    with pytest.raises(StoreError, match=r"is another one there than .* on a file system that they share or in a buck"):
        measure(own, [Moments()], scheduler=str(cluster))
    shutil.rmtree(there)
    shutil.copytree(store, there)
    assert measure(own, [Moments()], scheduler=str(cluster), cache=False)["moments"].identical(here)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("tcp://127.0.0.1:9", "--scheduler tcp://127.0.0.1:9 cannot be reached"),
        ("foo://127.0.0.1:9", "cannot be reached (unknown address scheme 'foo'"),
        ("there/scheduler.json", "--scheduler there/scheduler.json: there is no such file"),
        ("nonsense", "--scheduler nonsense is no address of a scheduler: write it as tcp://HOST:PORT"),
        ("", "--scheduler '' is no address"),
        ("tcp://host:65536", "is no address"),
    ],
)
def test_a_scheduler_that_is_not_there_is_named(
    analyze: Command, store: Path, monkeypatch: pytest.MonkeyPatch, where: str, words: str
) -> None:
    monkeypatch.setattr("analyze.statistics.cluster._PATIENCE_SECONDS", 0.3)
    _require_refused(analyze("--store", store, "--engine", "slices", "--scheduler", where), words)


@pytest.mark.parametrize(
    ("contents", "words"),
    [("", "it holds no address"), ("[1]", "it holds no address"), ('{"address": "x"}', "holds 'x', which is no addr")],
)
def test_a_file_that_is_no_schedulers_is_named(
    analyze: Command, store: Path, tmp_path: Path, contents: str, words: str
) -> None:
    (tmp_path / "some.json").write_text(contents)
    asked = ("--store", store, "--engine", "slices", "--scheduler", tmp_path / "some.json")
    _require_refused(analyze(*asked), words)


def test_what_speaks_otherwise_than_a_scheduler_is_told_in_time(
    analyze: Command, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a dashboard's port does, the one beside the scheduler's: distributed's client waits there without end."""
    monkeypatch.setattr("analyze.statistics.cluster._PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        where = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
        found = analyze("--store", store, "--engine", "slices", "--scheduler", where)
    _require_refused(found, f"{where} cannot be reached (what takes the connection is no Dask scheduler")


def _require_refused(found: tuple[int, str, str], words: str) -> None:
    """One message, with ``words`` and what to start, and no traceback of what was left half open."""
    status, out, err = found
    gc.collect()
    assert (status, out) == (2, "")
    assert words in err
    assert "dask scheduler" in err


def test_workers_without_this_code_are_told(cluster: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which one that cannot import it would end at its first task, and the pass wait for others."""
    with monkeypatch.context() as patched:
        patched.setattr(clusters, "source_digest", lambda: "another")
        with pytest.raises(InputError, match=r"its worker tcp://\S+ has another outlier-features or NumPy than this"):
            measure(Run(store), [Moments()], scheduler=str(cluster), cache=False)
    monkeypatch.setattr(clusters, "_CODE", "__import__('no_such_module')")
    with pytest.raises(InputError, match=r"cannot import outlier-features \(No module named 'no_such_module'\)"):
        measure(Run(store), [Moments()], scheduler=str(cluster), cache=False)


def test_a_cluster_that_goes_during_a_pass_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PATIENCE_SECONDS", "_GLANCE_SECONDS"):
        monkeypatch.setattr(clusters, name, 0.1)
    inside = distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=1, processes=False, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    )
    in_time = dask.config.set({"distributed.comm.timeouts.connect": "200ms"})  # else the client waits for 30 s
    with in_time, inside, distributed.Client(inside, set_as_default=False) as client:  # type: ignore[no-untyped-call]
        going = threading.Timer(0.1, inside.scale, [0])
        going.start()
        with pytest.raises(ClusterError, match="the cluster has no workers left"):
            Cluster(client).values([dask.delayed(time.sleep)(1)])
        going.join()
        inside.scale(1)
        client.wait_for_workers(1)
        going = threading.Timer(0.1, inside.loop.add_callback, [inside.scheduler.close])
        going.start()
        with pytest.raises(ClusterError, match="the cluster failed during the pass"):
            Cluster(client).values([dask.delayed(time.sleep)(1)])
        going.join()


def test_threads_do_not_change_a_digit(store: Path) -> None:
    one, four = (measure(Run(store), STATISTICS, threads=threads, cache=False) for threads in (1, 4))
    assert all(one[name].identical(four[name]) for name in one)
    assert Resources(threads=3).processors == 3
