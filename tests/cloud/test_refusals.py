"""What is wrong with a remote store is said at once, with what to do; nothing secret is ever shown."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.remote_errors import redact
from schemas.run import Run
from tests.buckets import KEY, SECRET, served_folder
from tests.cloud.conftest import Command

SIGNED = "https://host/run.zarr?X-Amz-Credential=AKIAABCDEFGHIJ&X-Amz-Signature=0123abcd"


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("s3://bucket/none.zarr", ["no zarr.json", "capture --model NAME --store s3://bucket/none.zarr"]),
        ("s3://nobucket/run.zarr", ["has no bucket 'nobucket'", "AWS_ENDPOINT_URL"]),
        ("s3://", ["names no bucket", "s3://BUCKET/PATH.zarr"]),
        ("ftp://host/run.zarr", ["s3://, gs:// and https://"]),
        ("http://192.0.2.1/run.zarr", ["http://192.0.2.1/run.zarr", "use https://"]),
        ("s3://me:secret-word@bucket/run.zarr", ["s3://***@bucket/run.zarr", "AWS_PROFILE"]),
        ("https://me:secret-word@host/run.zarr", ["https://***@host/run.zarr"]),
        (SIGNED, ["https://host/run.zarr?***"]),
    ],
)
def test_a_place_that_is_none(url: str, parts: list[str], bucket: str, analyze: Command) -> None:
    status, out, err = analyze("--store", url)
    assert (status, out) == (2, "")
    assert err.startswith("analyze: error: ")
    assert all(part in err for part in parts), err
    for secret in ("secret-word", "0123abcd", "AKIAABCDEFGHIJ", "Traceback"):
        assert secret not in err


def test_no_credentials(bucket: str, tmp_path: Path, analyze: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with served_folder(tmp_path) as served:
        served.status = (403, "<Error><Code>AccessDenied</Code></Error>")
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
        status, _, err = analyze("--store", "s3://bucket/run.zarr")
    assert status == 2
    assert "no credentials were found" in err
    assert "AWS_PROFILE" in err
    assert "AccessDenied" in err


def test_half_of_a_pair_of_keys(bucket: str, analyze: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    status, _, err = analyze("--store", "s3://bucket/run.zarr")
    assert status == 2
    assert "AWS_ACCESS_KEY_ID is set and AWS_SECRET_ACCESS_KEY is not" in err
    assert KEY not in err


def test_a_profile_that_is_not_there(bucket: str, analyze: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    status, _, err = analyze("--store", "s3://bucket/run.zarr")
    assert status == 2
    assert "AWS_PROFILE=nobody" in err


def test_a_profile_signs(
    bucket: str, uploaded: str, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "credentials").write_text(f"[lab]\naws_access_key_id={KEY}\naws_secret_access_key={SECRET}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_PROFILE", "lab")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    run = Run(uploaded)
    assert run.committed().all()
    assert run.group.store_path.store.remote.signed  # type: ignore[attr-defined]


def test_a_key_file_of_google_that_is_not_there(bucket: str, analyze: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/no/such/key.json")
    status, _, err = analyze("--store", "gs://bucket/run.zarr")
    assert status == 2
    assert "GOOGLE_APPLICATION_CREDENTIALS names /no/such/key.json" in err


@pytest.mark.parametrize("url", ["s3://bucket/run.zarr", "gs://bucket/run.zarr"])
def test_an_endpoint_that_does_not_answer(
    url: str, bucket: str, analyze: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://user:secret-word@127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_BASE_URL", "http://user:secret-word@127.0.0.1:9")
    monkeypatch.setenv("GOOGLE_SKIP_SIGNATURE", "true")
    started = time.monotonic()
    status, _, err = analyze("--store", url)
    assert time.monotonic() - started < 15
    assert status == 2
    assert "http://***@127.0.0.1:9 cannot be reached" in err
    assert "secret-word" not in err


@pytest.mark.parametrize(
    ("status", "code", "parts"),
    [
        (403, "InvalidAccessKeyId", ["these credentials may not read zarr.json (InvalidAccessKeyId)", "AWS_PROFILE"]),
        (403, "SignatureDoesNotMatch", ["SignatureDoesNotMatch"]),
        (301, "PermanentRedirect", ["another region", "AWS_REGION"]),
        (503, "SlowDown", ["cannot be read (SlowDown)", "run the same command again"]),
        (418, "Teapot", ["cannot be read (Teapot)"]),
    ],
)
def test_an_answer_that_repeats_the_keys(
    status: int,
    code: str,
    parts: list[str],
    bucket: str,
    tmp_path: Path,
    analyze: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with served_folder(tmp_path) as served:
        said = f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><StringToSign>{SECRET}</StringToSign>"
        served.status = (status, f"<Error><Code>{code}</Code>{said}</Error>")
        monkeypatch.setenv("AWS_ENDPOINT_URL", served.url)
        started = time.monotonic()
        exit_status, _, err = analyze("--store", "s3://bucket/run.zarr")
    assert exit_status == 2
    assert time.monotonic() - started < 15
    assert all(part in err for part in parts), err
    assert KEY not in err
    assert SECRET not in err


def test_a_server_that_fails_midway_is_no_damage(bucket: str, local: Path, analyze: Command) -> None:
    from schemas.errors import CorruptChunkError, StoreError

    with served_folder(local.parent) as served:
        run = Run(f"{served.url}/run.zarr")
        served.status = (500, "gone")
        with pytest.raises(StoreError, match=r"cannot be read \(status 500\)") as raised:
            run.read("ln_attn", (slice(0, 1), 0))
    assert not isinstance(raised.value, CorruptChunkError)


def test_without_the_extra() -> None:
    code = """
import sys
sys.modules["obstore"] = None
from analyze.cli import main
sys.exit(main(["--store", "s3://bucket/run.zarr"]))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "pip install 'outlier-features[cloud]'" in found.stderr
    assert "Traceback" not in found.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:word@bucket/x: gone", "s3://***@bucket/x: gone"),
        ("GET https://h/a?sig=abc&x=1 failed", "GET https://h/a?*** failed"),
        ("<Key>AKIAIOSFODNN7EXAMPLE</Key>", "<Key>***</Key>"),
        ("Authorization: AWS4-HMAC-SHA256 Credential=A/b Signature=c", "Authorization: ***"),
        ("runs/a?.zarr and me@host stay", "runs/a?.zarr and me@host stay"),
    ],
)
def test_redaction(text: str, shown: str) -> None:
    assert redact(text).startswith(shown)


def test_secrets_of_the_environment_are_in_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    assert redact("said wJalrXUtnFEMI/K7MDENG") == "said ***"
