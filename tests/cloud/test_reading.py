"""A store gives the same digits wherever it lives, by every route, from threads and from other processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from analyze.statistics.exceedances import Exceedances
from analyze.statistics.measure import measure
from analyze.statistics.moments import Moments
from analyze.statistics.peaks import LayerPeaks
from schemas import open_run
from schemas.run import Run
from tests.buckets import KEY, SECRET, bucket_objects, put_folder, served_folder
from tests.cloud.conftest import Command

QUESTIONS = [
    ["--magnitude", "2:8:2"],
    ["--magnitude", "4,6", "--definition", "llm-int8-block", "--features", "all"],
    ["--magnitude", "6", "--engine", "slices"],
    ["--magnitude", "4,6", "--details"],
    ["--criteria", "all"],
    ["--magnitude", "6", "--by", "layer"],
    ["--quantisation", "int8-absmax-token,mxfp4"],
    ["--info"],
]


@pytest.mark.parametrize("question", QUESTIONS, ids=" ".join)
def test_a_bucket_answers_as_the_folder_does(
    question: list[str], bucket: str, uploaded: str, local: Path, analyze: Command
) -> None:
    def told(store: object) -> str:
        status, out, err = analyze("--store", store, *question, "--format", "json", "-q")
        assert status == 0, err
        return out.replace(str(store), "STORE")

    assert told(uploaded) == told(local)


@pytest.mark.slow
@pytest.mark.parametrize("question", [QUESTIONS[0], QUESTIONS[3]], ids=" ".join)
def test_a_web_server_and_google_answer_as_the_folder_does(
    question: list[str], bucket: str, local: Path, analyze: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [*question, "--format", "json", "-q"]
    status, here, _ = analyze("--store", local, *flags)
    assert status == 0
    with served_folder(local.parent.parent) as served:
        monkeypatch.setenv("GOOGLE_BASE_URL", served.url)  # which asks for BUCKET/KEY
        monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
        name = local.parent.name
        for url in (f"{served.url}/{name}/run.zarr", f"gs://{name}/run.zarr"):
            status, there, err = analyze("--store", url, *flags)
            assert status == 0, err
            assert there.replace(url, "STORE") == here.replace(str(local), "STORE")


def test_of_a_web_server_all_but_the_sizes_is_known(bucket: str, local: Path, analyze: Command) -> None:
    with served_folder(local.parent) as served:
        status, out, err = analyze("--store", f"{served.url}/run.zarr", "--info", "--format", "json")
    assert (status, err) == (0, "")
    store, answers, arrays = json.loads(out)["tables"]
    assert (store["complete"], store["stored_bytes"], store["ratio"]) == (True, None, None)
    assert all(row["possible"] for row in answers["rows"] if "expert" not in row["question"])
    assert {row["stored_bytes"] for row in arrays["rows"]} == {None}


def test_values_of_a_bucket_are_those_of_the_folder(bucket: str, uploaded: str, local: Path) -> None:
    there, here = open_run(uploaded), open_run(local)
    assert there.attrs == here.attrs
    for name in here.variables:
        np.testing.assert_array_equal(there[name].values, here[name].values)
    lazy = pickle.dumps(open_run(uploaded, chunks={}).ln_attn)
    assert KEY.encode() not in lazy
    assert SECRET.encode() not in lazy
    np.testing.assert_array_equal(pickle.loads(lazy).values, here.ln_attn.values)


@pytest.fixture
def cluster(bucket: str, tmp_path: Path) -> Iterator[Path]:
    """The scheduler file of two worker processes that have the credentials in their own environment."""
    file = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    flags = ["--no-dashboard", "--scheduler-file", str(file)]
    quiet = {"stderr": subprocess.DEVNULL, "cwd": tmp_path}
    started = [subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *flags], **quiet)]  # type: ignore[call-overload]
    try:
        until = time.monotonic() + 60
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.1)
        worker = [*dask, "worker", "--nthreads", "1", "--local-directory", str(tmp_path), *flags]
        started += [subprocess.Popen(worker, **quiet) for _ in range(2)]  # type: ignore[call-overload]
        yield file
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(30)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_two_worker_processes_that_read_the_bucket_give_the_same_digits(
    cluster: Path, uploaded: str, local: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyze.statistics.pass_plan._BLOCK_BYTES", 2000)
    statistics = [Moments(), Exceedances(("2", "6")), LayerPeaks()]
    here = measure(Run(local), statistics, threads=2, cache=False)
    there = measure(Run(uploaded), statistics, scheduler=str(cluster), cache=False)
    for name in here:
        assert here[name].identical(there[name])


def test_results_of_a_bucket_are_kept_in_the_users_cache(bucket: str, local: Path, tmp_path: Path) -> None:
    put_folder(local, bucket, "cached/run.zarr")
    first = measure(Run("s3://bucket/cached/run.zarr"), [Moments()])
    (kept,) = (tmp_path / "cache/outlier-features").glob("run.zarr-*/*.npz")
    written = kept.stat().st_mtime_ns
    assert first["moments"].identical(measure(Run("s3://bucket/cached/run.zarr"), [Moments()])["moments"])
    assert kept.stat().st_mtime_ns == written

    import obstore

    obstore.put(bucket_objects(bucket, "cached/run.zarr"), "token_id/c.0.0", b"another")
    measure(Run("s3://bucket/cached/run.zarr"), [Moments()])
    (again,) = (tmp_path / "cache/outlier-features").glob("run.zarr-*/*.npz")
    assert again.name != kept.name


def test_peaks_of_a_remote_store_are_asked_for_once(bucket: str, local: Path, analyze: Command) -> None:
    with served_folder(local.parent) as served:
        assert analyze("--store", f"{served.url}/run.zarr", "--magnitude", "2:8:0.5", "-q")[0] == 0
        assert sum("/committed/" in path for path in served.asked) == 3
        assert not any("/ln_attn/" in path or "/ln_mlp/" in path for path in served.asked)
        chunks = [path for path in served.asked if not path.endswith("zarr.json")]
        assert len(set(chunks)) == len(chunks)
        assert sum(path.endswith("zarr.json") for path in served.asked) <= 4


@pytest.mark.slow
def test_a_pattern_stands_for_the_stores_of_a_bucket(bucket: str, local: Path, analyze: Command) -> None:
    for place in ("many/a.zarr", "many/b.zarr", "many/b[1].zarr", "many/deep/c.zarr"):
        put_folder(local, bucket, place)
    put_folder(local, bucket, "many/no-store/deeper.zarr")

    def stores(*patterns: str) -> list[str]:
        status, out, err = analyze("--store", *patterns, "--format", "json", "-q")
        assert status == 0, err
        return [result["store"] for result in json.loads(out)["results"]]

    assert stores("s3://bucket/many/*.zarr") == [f"s3://bucket/many/{name}.zarr" for name in ("a", "b", "b[1]")]
    assert stores("s3://bucket/many/*") == stores("s3://bucket/many/*.zarr")
    assert stores("s3://bucket/many/[b-z].zarr") == ["s3://bucket/many/b.zarr"]
    assert stores("s3://bucket/*/d*p/*.zarr") == ["s3://bucket/many/deep/c.zarr"]
    assert stores("s3://bucket/many/b[1].zarr") == ["s3://bucket/many/b[1].zarr"]
    for pattern, told in (
        ("s3://bucket/many/x*.zarr", "no store matches 's3://bucket/many/x*.zarr'"),
        ("s3://buck*/a.zarr", "not of a bucket"),
        ("https://host/*.zarr", "a web server gives no list"),
        ("s3://nobucket/*.zarr", "has no bucket 'nobucket'"),
    ):
        status, _, err = analyze("--store", pattern)
        assert status == 2
        assert told in err
