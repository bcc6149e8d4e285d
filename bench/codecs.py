"""What each codec makes of real hidden states: size, speed to write, speed to read.

``python -m bench.codecs [FORMAT ...]`` prints the tables of docs/decisions/037-codec-per-site.md: SmolLM2-135M over the
text that comes with Python, run in each of the three formats; one thread.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numcodecs import Blosc, blosc

from capture.session import CaptureSettings, run_capture
from schemas import ENCODINGS, Run
from schemas.codecs import CODECS, Codec
from schemas.command import run_command
from schemas.layout import layer_peak_name, position_peak_name

LENGTH = 2048
SITES = ("ln_attn", "ln_mlp", "residual")
LAYERS = (3, 15, 29)
ROUNDS = 2

Chunks = list[npt.NDArray[Any]]


def chunks_of(run: Run) -> dict[str, Chunks]:
    """Kind of array -> chunks of it, as they are stored."""
    kinds: dict[str, Chunks] = {site: [run.read(site, (layer, 0)) for layer in LAYERS] for site in SITES}
    kinds["layer peaks"] = [run.read(layer_peak_name(site), (layer, 0)) for site in SITES for layer in range(30)]
    kinds["position peaks"] = [run.read(position_peak_name(site), (0,)) for site in SITES]
    return kinds


def measure(codec: Codec, chunks: Chunks) -> tuple[float, float, float]:
    """(size over raw, MB/s of raw data written, MB/s read), each the best of some rounds."""
    shuffle = {"bitshuffle": Blosc.BITSHUFFLE, "shuffle": Blosc.SHUFFLE}[codec.shuffle]
    blosc_codec = Blosc(codec.compressor, codec.level, shuffle, 0, chunks[0].itemsize)
    raw = sum(chunk.nbytes for chunk in chunks)
    encoded = [blosc_codec.encode(chunk) for chunk in chunks]
    into = [np.empty_like(chunk) for chunk in chunks]

    def write() -> None:
        for chunk in chunks:
            blosc_codec.encode(chunk)

    def read() -> None:
        for body, chunk in zip(encoded, into, strict=True):
            blosc_codec.decode(body, chunk)

    write_seconds, read_seconds = (min(_seconds(task) for _ in range(ROUNDS)) for task in (write, read))
    return sum(map(len, encoded)) / raw, raw / write_seconds / 1e6, raw / read_seconds / 1e6


def _seconds(task: Callable[[], None]) -> float:
    started = time.process_time()  # of the processor: others may be at work here
    task()
    return time.process_time() - started


def tables(encodings: Sequence[str]) -> Iterator[str]:
    """Lines of one table for each format."""
    blosc.set_nthreads(1)
    with tempfile.TemporaryDirectory(prefix="codecs-") as folder:
        for encoding in encodings:
            store = Path(folder, f"{encoding}.zarr")
            flags: dict[str, Any] = {"text": "pydoc", "sequences": "1", "length": LENGTH, "dtype": encoding}
            with contextlib.redirect_stdout(io.StringIO()):
                run_capture(
                    CaptureSettings("smollm2-135m", ("capture",), store=str(store), sites=SITES, quiet=True, **flags)
                )
            kinds = chunks_of(Run(store))
            yield f"\n{encoding}: size / raw, encode MB/s, decode MB/s\n"
            yield f"| codec | {' | '.join(kinds)} |"
            yield f"|---|{'---|' * len(kinds)}"
            for name, codec in CODECS.items():
                cells = ("{:.3f}, {:.0f}, {:.0f}".format(*measure(codec, chunks)) for chunks in kinds.values())
                yield f"| {name} | {' | '.join(cells)} |"


def main() -> int:
    """Print the tables of the formats named, or of all."""
    for line in tables(sys.argv[1:] or list(ENCODINGS)):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(run_command("bench.codecs", main))
