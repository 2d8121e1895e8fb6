"""Texts by a pretrained transformer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import BeforeValidator, Field, PositiveInt
from torch import Tensor
from torch.nn import functional as F

from learners.base import LearnerError
from learners.pretrained.encoders.base import Encoder, EncoderConfig, fingerprint_of
from learners.pretrained.encoders.row_batches import RowBatches, move_network
from learners.pretrained.encoders.texts.hidden_layers import HiddenLayers, hidden_layers
from learners.pretrained.encoders.texts.model_files import (
    ModelSource,
    contents,
    load_transformer,
    model_folder,
    tokens_of,
)
from streams.core.batch import Array, Column, Ints, Ragged
from streams.core.errors import one_line
from streams.core.schema import Feature

Pooling = Literal["mean", "cls", "max"]

_ROWS, _TOKENS = 32, 2048  # of a batch: more gain nothing on one core, and take memory


class TextConfig(EncoderConfig):
    """Settings of an encoder of texts.

    Attributes:
        pooling: how the vectors of tokens become one: their ``mean`` or ``max``, or ``cls``, the
            first one. Several are concatenated.
        layers: how many of the last layers are pooled. With more than one, the vectors of all are
            concatenated, each scaled to a mean square of 1, so that they count alike.
        max_tokens: tokens of a text that count, special ones included; the rest is cut.
        normalise: whether a vector is scaled to length 1.
    """

    pooling: Annotated[
        tuple[Pooling, ...],
        BeforeValidator(lambda value: (value,) if isinstance(value, str) else value),
        Field(min_length=1),
    ] = ("mean",)
    layers: PositiveInt = 1
    max_tokens: PositiveInt = Field(256, ge=2)
    normalise: bool = False


class TransformerConfig(ModelSource, TextConfig):
    """Settings of an encoder by any model."""


class TransformerEncoder(Encoder):
    """The pooled last layers of a transformer that encodes texts.

    All tokens of a text take part, the special ones included. Texts of equal length are encoded
    together, so that none is padded: padding costs time and changes the bits of a row.

    A text counts up to its first ``64 * max_tokens`` characters. Bytes that are not UTF-8 count as
    U+FFFD.
    """

    kind = "transformers"
    kinds = frozenset({"text"})
    Config: ClassVar[type[TextConfig]] = TransformerConfig
    libraries = ("numpy", "torch", "transformers", "tokenizers")
    unit = True

    def __init__(self, config: TextConfig, feature: Feature, seed: int) -> None:
        super().__init__(config, feature, seed)
        self._max_tokens = config.max_tokens
        folder = self._folder(config)
        self._tokenizer, self._network = _load(folder, config, self.kind)
        self.rounding = self._network.layers.rounding
        self._batches = RowBatches(self._network, _ROWS, _TOKENS)
        self.dimension = self._probe()
        settings = (config.pooling, config.layers, config.max_tokens, config.normalise)
        self.fingerprint = fingerprint_of(self.kind, settings, contents(folder))

    def _folder(self, config: Any) -> Path:
        """Return the folder with the files of the model."""
        return model_folder(config.model, config.revision, self.kind)

    def _probe(self) -> int:
        """Encode a text of the most tokens. Return the dimension."""
        try:
            vectors = self.encode(Ragged.of_text(["a " * self._max_tokens]))
        except Exception as error:  # an index beyond the positions of a model, for example
            raise LearnerError(
                f"max_tokens: the model does not take {self._max_tokens}: state fewer "
                f"({type(error).__name__}: {one_line(error)})"
            ) from error
        return int(vectors.shape[1])

    def encode(self, values: Column) -> Array:
        assert isinstance(values, Ragged)
        if not len(values):
            return np.empty((0, self.dimension), np.float32)
        tokens = tokens_of(values, self._tokenizer, self._max_tokens)
        rows: list[Ints] = []
        vectors: list[Array] = []
        for of_one_length in _by_length(tokens):
            rows.append(np.array(of_one_length))
            batch = torch.tensor([tokens[row] for row in of_one_length])
            vectors.append(self._batches(batch.to(self.device)).cpu().numpy())
        encoded = np.empty((len(values), vectors[0].shape[1]), np.float32)
        encoded[np.concatenate(rows)] = np.concatenate(vectors)
        return encoded

    def move_to(self, device: str) -> None:
        move_network(self._network.layers, device)
        self.device = device
        self._batches = RowBatches(self._network, _ROWS, _TOKENS)


class _PooledLayers:
    """The pooling of the last layers of a model."""

    def __init__(self, layers: HiddenLayers, config: TextConfig) -> None:
        self.layers = layers
        self._pooling = config.pooling
        self._last = config.layers
        self._normalise = config.normalise

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the vectors (n, dimension) of texts of one length (n, tokens)."""
        each = [self._pooled(layer) for layer in self.layers(tokens, self._last)]
        if self._last > 1:
            each = [F.normalize(x, dim=1) * x.shape[1] ** 0.5 for x in each]
        pooled = torch.cat(each, 1)
        return F.normalize(pooled, dim=1) if self._normalise else pooled

    def _pooled(self, layer: Tensor) -> Tensor:
        """Return one vector (n, ...) of each text, of the vectors (n, tokens, width) of a layer."""
        parts = {
            "mean": lambda: layer.mean(1),
            "max": lambda: layer.amax(1),
            "cls": lambda: layer[:, 0],
        }
        return torch.cat([parts[how]() for how in self._pooling], 1)


def _load(folder: Path, config: TextConfig, kind: str) -> tuple[Any, _PooledLayers]:
    """Return the tokenizer and the network of a folder. Never asks a network."""
    tokenizer, model = load_transformer(folder, kind)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    if config.layers > (most := model.config.num_hidden_layers):
        raise LearnerError(f"layers: the model has {most}, and not {config.layers}")
    return tokenizer, _PooledLayers(hidden_layers(model), config)


def _by_length(tokens: list[list[int]]) -> Iterator[list[int]]:
    """Yield the rows of equal length."""
    rows = defaultdict(list)
    for row, of_one in enumerate(tokens):
        rows[len(of_one)].append(row)
    yield from rows.values()
