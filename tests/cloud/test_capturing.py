"""``capture --store s3://...``: the bucket ends with the files of a local capture; what is interrupted continues."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest

from capture import upload
from capture.cli import main
from schemas.run import Run
from tests.buckets import bucket_objects
from tests.capture.captures import PROSE, contents
from tests.checkpoints import write_checkpoint
from tests.cloud.conftest import Command

Capture = Callable[..., int]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("models") / "qwen3", "qwen3")


@pytest.fixture
def capture(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Capture:
    """Runs the command quietly in an empty folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(PROSE)

    def run(store: str, *options: Any) -> int:
        fixed = ["--model", str(model), "--store", store, "--text", "text.txt", "--device", "cpu", "-q"]
        return main([*fixed, "--length", "16", *map(str, options)])

    return run


def objects(endpoint: str, prefix: str) -> dict[str, bytes]:
    """Every object under the prefix, as ``contents`` gives the files of a folder."""
    held = bucket_objects(endpoint, prefix)
    found = {one["path"]: bytes(obstore.get(held, one["path"]).bytes()) for page in obstore.list(held) for one in page}
    if "zarr.json" in found:
        root = json.loads(found["zarr.json"])
        del root["attributes"]["created"]
        found["zarr.json"] = json.dumps(root).encode()
    return found


def test_a_capture_into_a_bucket_is_read_back(
    bucket: str, capture: Capture, analyze: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "s3://bucket/captured/a.zarr"
    assert capture(url, "--sequences", 2) == 0
    said = capsys.readouterr().out
    assert f"analyze --store {url} --magnitude 6" in said
    assert objects(bucket, "captured/a.zarr") == contents(tmp_path / "runs/a.zarr")
    assert Run(url).committed().all()
    there, here = (
        analyze("--store", s, "--magnitude", "0.5", "--details", "--format", "csv") for s in (url, "runs/a.zarr")
    )
    assert there[0] == 0
    assert there[1].replace(url, "runs/a.zarr") == here[1]
    assert capture(url, "--sequences", 2) == 0
    assert "uploaded     0 objects" in capsys.readouterr().out


def test_an_interrupted_copy_is_partial_and_continues(
    bucket: str, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    url = "s3://bucket/captured/b.zarr"
    put, sent = upload.Upload._put, []

    def failing(self: Any, key: str, body: bytes) -> None:
        sent.append(key)
        if key.startswith("committed/c.") and len([k for k in sent if k.startswith("committed/c.")]) == 2:
            raise KeyboardInterrupt
        put(self, key, body)

    monkeypatch.setattr(upload, "_AT_ONCE", 1)
    monkeypatch.setattr(upload.Upload, "_put", failing)
    assert capture(url, "--sequences", 2) == 130
    assert Run(url).complete_sequences() == [0]
    assert sent.index("zarr.json") > max(
        i for i, key in enumerate(sent) if not key.startswith(("committed/c.", "zarr."))
    )
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    for name, value in (("AWS_ENDPOINT_URL", bucket), ("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "word")):
        monkeypatch.setenv(name, value)
    capsys.readouterr()
    assert capture(url, "--sequences", 2) == 0
    assert "uploaded     1 objects" in capsys.readouterr().out
    assert objects(bucket, "captured/b.zarr") == contents(tmp_path / "runs/b.zarr")


@pytest.mark.slow
def test_workers_on_machines_that_share_nothing_fill_one_store(
    bucket: str, capture: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "s3://bucket/captured/c.zarr"
    for part in ("0:1/3", "1:3/3"):
        (tmp_path / part[0]).mkdir()
        monkeypatch.chdir(tmp_path / part[0])
        (tmp_path / part[0] / "text.txt").write_text(PROSE)
        assert capture(url, "--sequences", part) == 0
    assert Run(url).committed().all()
    assert capture("whole.zarr", "--sequences", 3) == 0
    there, whole = objects(bucket, "captured/c.zarr"), contents(Path("whole.zarr"))
    assert {key for key in whole if there.get(key) != whole[key]} == {"zarr.json"}  # the command names the store
    assert there.keys() == whole.keys()


@pytest.mark.slow
def test_another_run_is_not_written_over(
    bucket: str, capture: Capture, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "s3://bucket/captured/d.zarr"
    assert capture(url, "--sequences", 1) == 0
    held = objects(bucket, "captured/d.zarr")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/text.txt").write_text(PROSE)
    capsys.readouterr()
    assert capture(url, "--sequences", 1) == 2
    assert "holds a complete run already" in capsys.readouterr().err
    assert capture("runs/d.zarr", "--sequences", 1, "--dtype", "float32") == 0
    capsys.readouterr()
    assert capture(url, "--sequences", 1, "--dtype", "float32") == 2
    assert "was made with other settings" in capsys.readouterr().err
    assert objects(bucket, "captured/d.zarr") == held
    assert capture(url, "--sequences", 2, "--overwrite") == 0
    assert objects(bucket, "captured/d.zarr") == contents(Path("runs/d.zarr"))


@pytest.mark.parametrize(
    ("url", "part"),
    [("s3://nobucket/a.zarr", "has no bucket 'nobucket'"), ("https://127.0.0.1/a.zarr", "not written; give s3://")],
)
def test_a_bucket_that_cannot_be_written_is_told_before_anything_is_computed(
    url: str, part: str, bucket: str, capture: Capture, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert capture(url, "--sequences", 1) == 2
    assert part in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_writes_nothing(bucket: str, capture: Capture) -> None:
    assert capture("s3://bucket/captured/e.zarr", "--sequences", 1, "--dry-run") == 0
    assert objects(bucket, "captured/e.zarr") == {}
