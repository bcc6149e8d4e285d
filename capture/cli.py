"""The ``capture`` command: flags in, exit status out. torch and transformers are imported after the flags are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Literal

from capture.engines import ENGINES
from capture.presets import PRESETS

__all__ = ["build_parser", "main"]

EXAMPLES = """\
examples:
  capture --model smollm2-135m --text pydoc          a real small model and real text, no network
  capture --model qwen3-30b                          16 x 2048 tokens of FineWeb-Edu -> runs/qwen3.zarr
  capture --model qwen3-30b --dry-run                what it would take: layers, bytes, memory, disk
  capture --model qwen3-30b --sequences 8:16/64      a worker's part of a store of 64 sequences
  capture --model ./my-checkpoint --text notes.txt --sequences 4 --length 512
  capture --model gpt2 --length 1024 --text allenai/c4,config=en,split=validation

The same command continues an interrupted capture. Then: analyze --store runs/NAME.zarr --magnitude 6
"""


def _batch_size(text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of sequences: write 1, 4 or auto") from None


def build_parser() -> argparse.ArgumentParser:
    """The command's flags."""
    parser = argparse.ArgumentParser(
        prog="capture",
        description="Run a language model once over fixed tokens and write its hidden states to a run store.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", required=True, metavar="NAME", help="a preset (see below), a Hub id OWNER/NAME, or a folder"
    )
    parser.add_argument(
        "--revision",
        metavar="R",
        help="of a Hub id: a branch, a tag or a commit (default: the commit of the store to continue, else main)",
    )
    parser.add_argument(
        "--store",
        metavar="PATH",
        help="where to write (default: runs/NAME.zarr); s3:// or gs://: into runs/ first, then copied there",
    )
    parser.add_argument(
        "--text",
        default="fineweb-edu",
        metavar="SOURCE",
        help="fineweb-edu (default), pydoc, a .txt, .jsonl or .parquet file, or a Hub dataset; options after commas: "
        "OWNER/NAME,config=C,split=S,column=T",
    )
    parser.add_argument(
        "--sequences",
        default="16",
        metavar="N",
        help="windows of text (default: 16); or a part of them for this process, A:B or A:B/N, B not included: workers "
        "fill parts of one store at the same time",
    )
    parser.add_argument("--length", type=int, default=2048, metavar="T", help="tokens in a window (default: 2048)")
    parser.add_argument(
        "--overlap", default="0%", metavar="P", help="share of a window that the next one repeats (default: 0%%)"
    )
    parser.add_argument(
        "--bos",
        choices=("auto", "always", "never"),
        default="auto",
        help="start windows with the beginning-of-sequence token; auto: as the tokenizer does (default)",
    )
    parser.add_argument(
        "--dtype",
        choices=("auto", "bfloat16", "float16", "float32"),
        default="auto",
        help="of weights, computation and store (default: auto, the checkpoint's own)",
    )
    parser.add_argument("--device", default="auto", metavar="D", help="auto (default), cpu, cuda, ...")
    parser.add_argument(
        "--batch-size",
        type=_batch_size,
        metavar="B",
        help="sequences in one forward (default: 1); auto: as many as fit in memory, which the store then records",
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="auto",
        help="resident: the model whole in memory; streamed: one layer at a time; lockstep: the same for models whose "
        "layers share more than hidden states; auto: the first that fits (default)",
    )
    parser.add_argument(
        "--keep",
        default="slices",
        metavar="K",
        help="of the hidden states: slices, all of them (default); floor=M, zero for values below M, which answers "
        "every question at M or more; peaks, none. Peaks are kept exactly in each case",
    )
    parser.add_argument(
        "--codec",
        metavar="C",
        help="how sites and peaks are compressed: lz4 (levels 1, 5, 9) or zstd (1, 3, 5), with bitshuffle or shuffle, "
        "such as zstd-3-bitshuffle; or for some of them residual=zstd-3-shuffle,peaks=... (default: as measured)",
    )
    parser.add_argument("--sites", metavar="S", help="of ln_attn,ln_mlp,residual (default: all but the residual)")
    parser.add_argument("--seed", type=int, metavar="N", help="shuffle documents (default: the source's own order)")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing store")
    parser.add_argument(
        "--evict",
        action="store_true",
        help="of a Hub id larger than the disk: fetch shards just ahead of their layer, remove them after it",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop; exit 1 where it cannot fit")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress, only the result")

    parser.epilog = f"presets: {', '.join(PRESETS)}\n\n{EXAMPLES}"
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command with ``argv`` (default: the process's own); the exit status: 0, 1, 2, or 130 interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(arguments)
    from schemas.command import run_command

    return run_command(
        "capture",
        lambda: _run(options, arguments),
        arguments,
        interrupted="interrupted; what is committed is safe, the same command continues",
        needs_reader=False,
    )


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from capture.checkpoint import require_capture_extra

    require_capture_extra()
    from capture.session import CaptureSettings, run_capture

    return run_capture(
        CaptureSettings(
            model=options.model,
            command=("capture", *(a for a in arguments if a not in ("--overwrite", "--dry-run"))),
            revision=options.revision,
            store=options.store,
            text=options.text,
            sequences=options.sequences,
            length=options.length,
            overlap=options.overlap,
            bos=options.bos,
            dtype=options.dtype,
            device=options.device,
            batch_size=options.batch_size,
            engine=options.engine,
            keep=options.keep,
            codec=options.codec,
            sites=None if options.sites is None else tuple(name.strip() for name in options.sites.split(",")),
            seed=options.seed,
            overwrite=options.overwrite,
            evict=options.evict,
            dry_run=options.dry_run,
            quiet=options.quiet,
        )
    )


if __name__ == "__main__":
    sys.exit(main())
