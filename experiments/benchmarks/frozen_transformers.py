"""Compare learners inside a frozen transformer with bare loops in torch of the same methods.

Events are texts of CLINC150, a domain after the other, in micro-batches of 10, on all-MiniLM-L6-v2
and one thread. Both sides predict and learn each micro-batch. A bare loop has the torch operations
alone, without draws. Sides alternate part by part, and the first part is left out.

    OMP_NUM_THREADS=1 python experiments/benchmarks/frozen_transformers.py
"""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from learners.base import Learner
from learners.pretrained.adapters.adapter import Adapter, AdapterConfig
from learners.pretrained.adapters.mos import Mos
from learners.pretrained.adapters.mos_settings import MosConfig
from learners.pretrained.adapters.stack import AdapterStack
from learners.pretrained.backbones.base import Hidden
from streams.core.batch import Batch, Ragged
from streams.core.schema import Feature, Schema

DATA = Path(os.environ.get("EVERLEARN_DATA", "data")) / "clinc150_full.json.gz"
SCHEMA = Schema((Feature("text", "text"),), "classification")
CLASSES = 150
EVENTS, PART = 700, 100
EVERY = 100  # events for an adapter of mos


def events() -> Batch:
    """Return ``PART`` labelled texts of each of several domains, one domain after the other."""
    with gzip.open(DATA) as file:
        data = json.load(file)
    rng, rows = np.random.default_rng(0), []
    for intents in list(data["domains"].values())[: EVENTS // PART]:
        of_domain = [row for row in data["train"] if row[1] in intents]
        rows += [of_domain[i] for i in rng.permutation(len(of_domain))[:PART]]
    names = tuple(dict.fromkeys(label for _, label in rows))
    y = np.array([names.index(label) for _, label in rows])
    i, texts = np.arange(EVENTS), Ragged.of_text([text for text, _ in rows])
    return Batch(i, i * 1.0, {"text": texts}, np.zeros(EVENTS, np.int32), i, y, classes=names)


def ours(learner: Learner) -> Callable[[Batch], None]:
    """Return a function that predicts and learns a micro-batch."""

    def step(batch: Batch) -> None:
        learner.predict(replace(batch, y=None))
        learner._learn(batch)

    return step


class Bare:
    """The frozen blocks, an adapter, and its training by the means of classes, in torch."""

    def __init__(self) -> None:
        learner = Adapter(AdapterConfig(kind="adapter", cache_mb=0), SCHEMA, 0)
        self.backbone, self.parts = learner.backbone, learner.parts
        self.upper = learner.parts.features
        self.first_block = learner.parts.trunk.first_block
        self.optimizer = torch.optim.Adam(self.parts.parameters(), lr=1e-3)
        self.sums = torch.zeros(CLASSES, self.backbone.width)

    def __call__(self, batch: Batch) -> None:
        with torch.no_grad():
            hidden = self.below(batch)
            (F.normalize(self.upper(hidden, None)) @ F.normalize(self.sums).T).argmax(1)
        self.train(hidden, torch.from_numpy(batch.y))

    def below(self, batch: Batch) -> Hidden:
        """Return the states before the upper blocks."""
        assert isinstance(batch.x, dict)
        hidden = self.backbone.embed(torch.from_numpy(self.backbone.rows(batch.x["text"])))
        for i in range(self.first_block):
            hidden = self.backbone.block(i, hidden)
        return hidden

    def train(self, hidden: Hidden, y: Tensor) -> Tensor:
        """Take a step, and return the unit features as they were before."""
        unit = F.normalize(self.upper(hidden, None))
        self.sums.index_add_(0, y, unit.detach())
        loss = F.cross_entropy(16 * unit @ F.normalize(self.sums).T, y)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return unit.detach()


class Gaussian:
    """Classes of one covariance, in torch: streaming linear discriminant analysis."""

    def __init__(self, width: int, classes: int) -> None:
        self.counts = torch.zeros(classes)
        self.sums = torch.zeros(classes, width)
        self.products = torch.zeros(width, width)
        self.seen = torch.zeros(1, dtype=torch.int64)
        self.weights, self.offsets = torch.zeros(width, 1), torch.zeros(1)

    def learn(self, x: Tensor, y: Tensor) -> None:
        """Add rows (n, width) of the classes (n,), and solve the weights of classes with rows."""
        self.counts.index_add_(0, y, torch.ones(len(y)))
        self.sums.index_add_(0, y, x)
        self.products += x.T @ x
        self.seen = self.counts.nonzero()[:, 0]
        counts, n = self.counts[self.seen], self.counts.sum()
        means = self.sums[self.seen] / counts[:, None]
        covariance = self.products / n - (means.T * counts) @ means / n
        factor = torch.linalg.cholesky(covariance + 1e-2 * torch.eye(len(covariance)))
        self.weights = torch.cholesky_solve(means.T, factor)
        self.offsets = -0.5 * (means.T * self.weights).sum(0)

    def likeliest(self, x: Tensor) -> Tensor:
        """Return the class (n,) of rows (n, width), from their probabilities."""
        probabilities = torch.softmax(x @ self.weights + self.offsets, 1)
        return self.seen[probabilities.argmax(1)]


class BareMos(Bare):
    """An adapter for each ``EVERY`` events. A row passes the first, and the one chosen by it."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = AdapterStack(self.parts.trunk, 0.1)
        classes = CLASSES * -(-EVENTS // EVERY)
        self.near = Gaussian(self.backbone.width, classes)
        self.found = Gaussian(self.backbone.width, classes)
        self.seen = 0

    def __call__(self, batch: Batch) -> None:
        if self.seen % EVERY == 0:
            self.stack.append(self.parts)
            self.optimizer = torch.optim.Adam(self.parts.parameters(), lr=3e-3)
        newest = self.seen // EVERY
        self.seen += len(batch)
        with torch.no_grad():
            hidden = self.below(batch)
            self.choose(hidden)
        classes = torch.from_numpy(batch.y) + CLASSES * newest
        unit = self.train(hidden, torch.from_numpy(batch.y))
        with torch.no_grad():
            first = F.normalize(self.stack.features(hidden, 0)) if newest else unit
        self.stack.put(newest, self.parts)
        self.near.learn(first, classes)
        self.found.learn(unit, classes)

    def choose(self, hidden: Hidden) -> Tensor:
        """Return the classes (n,): by the first adapter, the chosen one, and a round more."""
        first = F.normalize(self.stack.features(hidden, 0))
        chosen = self.near.likeliest(first) // CLASSES
        unit = self.through(hidden, first, chosen, torch.zeros_like(chosen))
        again = self.found.likeliest(unit) // CLASSES
        return self.found.likeliest(self.through(hidden, unit, again, chosen))

    def through(self, hidden: Hidden, unit: Tensor, chosen: Tensor, before: Tensor) -> Tensor:
        """Return features (n, width) of which those with another adapter than before are new."""
        moved = (chosen != before).nonzero()[:, 0]
        if not len(moved):
            return unit
        mask = None if hidden.mask is None else hidden.mask[moved]
        some = self.stack.features(Hidden(hidden.states[moved], mask), chosen[moved])
        return unit.index_copy(0, moved, F.normalize(some))


def seconds(step: Callable[[Batch], None], part: Batch) -> float:
    """Return the CPU seconds of an event."""
    began = time.process_time()
    for batch in part.micro_batches(10):
        step(batch)
    return (time.process_time() - began) / len(part)


def main() -> None:
    torch.set_num_threads(1)
    stream = events()
    methods: dict[str, Callable[[], tuple[Learner, Bare]]] = {
        "adapter": lambda: (
            Adapter(AdapterConfig(kind="adapter", head="prototype"), SCHEMA, 0),
            Bare(),
        ),
        "mos": lambda: (Mos(MosConfig(kind="mos", every=EVERY), SCHEMA, 0), BareMos()),
        "mos, alignment: sgd": lambda: (
            Mos(MosConfig(kind="mos", every=EVERY, alignment="sgd"), SCHEMA, 0),
            BareMos(),
        ),
    }
    print("| method | ms an event | bare loop | ratio of parts (median, least, most) |")
    print("|---|---|---|---|")
    for name, make in methods.items():
        learner, bare = make()  # of a backbone of their own, that has kept no states
        pairs = []
        for start in range(0, EVENTS, PART):
            part = stream[start : start + PART]
            pairs.append((seconds(ours(learner), part), seconds(bare, part)))
        own, theirs = (1e3 * median(side) for side in zip(*pairs[1:], strict=True))
        ratios = sorted(there / here for here, there in pairs[1:])
        print(
            f"| {name} | {own:.2f} | {theirs:.2f} | "
            f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
            flush=True,
        )
        del learner, bare


if __name__ == "__main__":
    main()
