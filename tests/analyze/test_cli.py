"""The command: what it prints where, what it exits with, what it imports, and that its help is true."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from analyze.cli import main
from schemas.command import start_command
from tests.analyze.conftest import Command, Refusal
from tests.analyze.criteria.mixture import make_mixture

HEAVY = ("torch", "transformers", "dask", "xarray", "zarr", "numpy", "pydantic", "tabulate")


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_imports_nothing_heavy() -> None:
    code = "import sys; from analyze.cli import main; status = main(['--help']); print(*sys.modules); sys.exit(status)"
    done = in_a_process(code)
    assert done.returncode == 0
    assert "usage: analyze" in done.stdout
    loaded = set(done.stdout.split())
    assert "analyze.cli" in loaded
    assert not loaded & set(HEAVY)


def test_an_answer_from_peaks_imports_no_dask(noisy_store: Path) -> None:
    code = (
        f"import sys; from analyze.cli import main; status = main(['--store', {str(noisy_store)!r}]); "
        "print(*sys.modules); sys.exit(status)"
    )
    done = in_a_process(code)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "zarr" in loaded
    assert not loaded & {"torch", "transformers", "dask", "xarray", "pandas", "capture"}


def test_every_example_of_the_help_is_understood(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    main(["--help"])
    examples = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  analyze --store")]
    assert len(examples) >= 5
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    make_mixture(Path("runs/qwen3.zarr"))
    for example in examples:
        words = shlex.split(example.split(">")[0].replace("runs/*.zarr", "runs/qwen3.zarr"))
        assert main(words[1:]) == 0, example
        assert capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--magnitude", "-6"], "--magnitude '-6' is negative"),
        (["--magnitude", "-2:12:1"], "--magnitude '-2' in '-2:12:1' is negative"),
        (["--layers", "-5%"], "--layers '-5%' is not a share"),
        (["--magnitude", "nan"], "--magnitude 'nan' is not a number"),
        (["--magnitude", "2:12:0"], "has a step of 0"),
        (["--magnitude", "2:12"], "write START:STOP:STEP"),
        (["--layers", "25"], "did you mean 25%?"),
        (["--layers", "a lot"], "--layers 'a lot' is not a share"),
        (["--positions", "0%"], "--positions '0%' is nothing"),
        (["--sites", "ln_q"], "has no site 'ln_q'; it has: ln_attn, ln_mlp"),
        (["--sites", "residual"], "ln_mlp. Capture it with: --sites ln_attn,ln_mlp,residual"),
        (["--sites", "ln_attn,ln_attn"], "names a site twice"),
        (["--sites", "ln_attn,"], "has an empty name"),
        (["--engine", "peaks", "--details"], "--details needs the slices"),
        (["--details", "--magnitude", "1:300:0.5"], "distinct magnitudes; the limit is 256"),
        (["--definition", "dettmers"], "invalid choice: 'dettmers'"),
        (["--engine", "gpu"], "invalid choice: 'gpu'"),
        (["--format", "xml"], "invalid choice: 'xml'"),
        (["--features", "-1"], "--features"),
        (["--features", "many"], "'many' is not a number of features: write 25, 0 or all"),
        (["--unknown"], "unrecognized arguments"),
        (["--null", "--alpha", "3", "--group-size", "9"], "--group-size goes with --quantisation, not with --null"),
        (["--diff", "a", "b"], "leave out --store"),
        (["--quantisation", "mxfp4", "--alpha", "5"], "--alpha is of llm-int8 alone"),
        (["--quantisation", "llm-int8", "--group-size", "8"], "--group-size is of int8-absmax-group alone"),
        (["--store", ""], "--store '' names no store"),
        (["--store", "file:///nowhere/*.zarr"], "no store matches '/nowhere/*.zarr'"),
        (["--store", "s3://bucket/a//b.zarr"], "empty name between two slashes: write s3://bucket/a/b.zarr"),
        (["--plots", "s3://bucket/plots"], "is no place on this machine"),
        (["--memory-limit", "1"], "--memory-limit 1 byte is too small: Python and its libraries have taken"),
        (["--details", "--scheduler", "/nope.json"], "there is no such file"),
        (["--mag", "4"], "unrecognized arguments: --mag 4"),
    ],
)
def test_input_that_cannot_be_used(refusal: Refusal, noisy_store: Path, arguments: list[str], told: str) -> None:
    assert told in refusal("--store", noisy_store, *arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--store", "x" * 5000], f"analyze: error: {'x' * 100}...{'x' * 50} (5,000 characters) does not exist."),
        (["--store", "s3://bucket/a\tb"], r"'s3://bucket/a\tb' is no URL"),
        (["--store", "run.zarr", "--report", "a\0.html"], r"'a\x00.html' holds a NUL character"),
        (
            ["--store", "STORE", "--report", f"{'x' * 5000}.html"],
            "(5,005 characters): File name too long: give a shorter",
        ),
    ],
    ids=["store", "URL", "NUL", "report"],
)
def test_a_name_that_nothing_can_have(analyze: Command, noisy_store: Path, arguments: list[str], told: str) -> None:
    status, out, err = analyze(*(str(noisy_store) if word == "STORE" else word for word in arguments))
    assert (status, out) == (2, "")
    assert told in err
    assert len(err) < 600


def test_a_store_must_be_given(analyze: Command) -> None:
    status, _, err = analyze("--magnitude", "6")
    assert status == 2
    assert "--store" in err


def test_stores_may_follow_one_flag_or_several(analyze: Command, noisy_store: Path, tmp_path: Path) -> None:
    stores = [noisy_store, *(Path(shutil.copytree(noisy_store, tmp_path / name)) for name in ("b.zarr", "c.zarr"))]
    status, out, _ = analyze("--store", stores[0], f"file://{stores[1]}", "--store", stores[2], "--format", "json")
    assert status == 0
    assert [result["store"] for result in json.loads(out)["results"]] == list(map(str, stores))


@pytest.mark.parametrize("view", ["--info", "--null", "--saturation", "--published", "--by=layer", "--quantisation"])
def test_one_store_is_not_beside_itself_in_any_view(
    analyze: Command, noisy_store: Path, tmp_path: Path, view: str
) -> None:
    (tmp_path / "link.zarr").symlink_to(noisy_store)
    for other, told in (("link.zarr", "/link.zarr are one store"), (str(noisy_store), "noisy.zarr is given twice")):
        status, out, err = analyze("--store", noisy_store, tmp_path / other, view)
        assert (status, out) == (2, "")
        assert f"{told}: name each store once" in err


def test_nothing_is_printed_where_one_of_several_stores_fails(analyze: Command, noisy_store: Path) -> None:
    status, out, err = analyze("--store", noisy_store, noisy_store / "absent")
    assert (status, out) == (2, "")
    assert "absent" in err


def test_a_reader_that_leaves_early_is_no_error(noisy_store: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "analyze",
        "--store",
        str(noisy_store),
        "--magnitude",
        "1:12:0.02",
        "--format",
        "json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b'{"results": [\n'
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0


def test_an_interrupt_exits_with_130(noisy_store: Path) -> None:
    code = (
        "import signal, sys, time, analyze.thresholds.answers, analyze.cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job starts without
        "def wait(*_):\n    print('waiting', flush=True)\n    time.sleep(60)\n"
        "analyze.thresholds.answers.take_tally = wait\n"
        f"sys.exit(analyze.cli.main(['--store', {str(noisy_store)!r}]))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"waiting\n"
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == b"analyze: interrupted\n"
        assert process.wait() == 130


def test_no_name_makes_printing_fail(noisy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Letters that the terminal has not, a byte that is no text, and an output that is closed."""
    name = os.fsdecode("caf\u00e9 ".encode() + b"\xff.zarr")
    (tmp_path / name).symlink_to(noisy_store)
    (tmp_path / "other.zarr").symlink_to(noisy_store.with_name("none"))
    monkeypatch.chdir(tmp_path)
    for form in ("table", "csv"):
        out = io.TextIOWrapper(io.BytesIO(), "ascii")
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["--store", name, "--format", form]) == 0
        out.seek(0)
        assert form == "table" or "caf\\xe9 \\udcff.zarr" in out.read()
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["--store", name, "--format", "csv"]) == 0
    assert main(["--store", "other.zarr"]) == 2
    sys.stdout.close()
    sys.stderr.close()


@pytest.mark.parametrize("command", ["analyze", "capture"])
def test_an_interrupt_of_an_import_is_quiet(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted:
        def find_spec(self, name: str, *_: object) -> None:
            if name == f"{command}.cli":
                raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, f"{command}.cli", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    assert start_command(command) == 130
    assert capsys.readouterr() == ("", f"{command}: interrupted\n")


def test_data_goes_to_stdout_alone(analyze: Command, noisy_store: Path) -> None:
    asked = ("--store", noisy_store, "--engine", "slices", "--format", "csv", "--no-cache")
    status, out, err = analyze(*asked)
    assert status == 0
    assert len(out.splitlines()) == 2
    assert re.fullmatch(r"analyze: slices: 10 cells of 4 sequences, [0-9]+ at once, in at most .* of memory\n", err)
    assert analyze(*asked, "--quiet") == (0, out, "")


def test_progress_is_told_now_and_then_on_stderr(
    analyze: Command, noisy_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analyze.progress._SECONDS_BETWEEN_LINES", 0.0)
    _, _, err = analyze("--store", noisy_store, "--engine", "slices", "--format", "csv", "--no-cache")
    assert "analyze: slices: 3 of 4 sequences" in err
    _, _, quiet = analyze("--store", noisy_store, "--engine", "slices", "--format", "csv", "--quiet", "--no-cache")
    assert quiet == ""


def test_the_package_gives_its_names_when_asked() -> None:
    import analyze

    assert {name: getattr(analyze, name).__name__ for name in ("answer", "ask", "render")} == {
        "answer": "answer",
        "ask": "ask",
        "render": "render",
    }
    assert set(analyze.__all__) >= {"DEFINITIONS", "Question", "Result"}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = analyze.nothing
