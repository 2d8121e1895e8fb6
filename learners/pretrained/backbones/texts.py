"""Transformers for texts of the architecture of BERT."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from learners.base import LearnerError
from learners.pretrained.backbones.base import Backbone, BackboneConfig, Hidden, mean_of_tokens
from learners.pretrained.blocks.attention import Prefix
from learners.pretrained.blocks.bert_block import (
    Adapter,
    BertBlock,
    BertEmbeddings,
    bert_parts,
    difference_to_bert,
)
from learners.pretrained.encoders.base import fingerprint_of
from learners.pretrained.encoders.ragged_batches import padded_tokens
from learners.pretrained.encoders.texts.model_files import (
    ModelSource,
    contents,
    load_transformer,
    minilm_folder,
    model_folder,
    tokens_of,
)
from streams.core.batch import Array, Column, Ints, Ragged
from streams.core.errors import one_line
from streams.core.schema import Feature

_NO_TOKEN = -1


class TextBackboneConfig(BackboneConfig):
    """Settings of a backbone for texts.

    Attributes:
        max_tokens: tokens of a text that count, special ones included; the rest is cut. A row has
            as many places.
    """

    max_tokens: PositiveInt = Field(64, ge=2)


class TransformersBackboneConfig(ModelSource, TextBackboneConfig):
    """Settings of a backbone from the files of a model."""


class TextBackbone(Backbone):
    """A frozen BERT (Devlin et al. 2019). A subclass says where its weights and tokens come from.

    A row holds the tokens of a text, and -1 in the places behind. A row without any token counts as
    one of the first token of the vocabulary.

    Its blocks are there twice: also in a layout that is faster, and has no gradients.

    Attributes:
        embeddings: the input of the first block.
    """

    kinds = frozenset({"text"})
    Config: ClassVar[type[BackboneConfig]] = TextBackboneConfig
    batch_tokens = 2048
    embeddings: BertEmbeddings

    def _set_up(
        self, embeddings: BertEmbeddings, blocks: Sequence[BertBlock], max_tokens: int
    ) -> None:
        """Take over the weights."""
        self.embeddings, self._blocks = embeddings, list(blocks)
        self._packed = [block.packed() for block in blocks]
        most = len(embeddings.positions)
        if max_tokens > most:
            raise LearnerError(f"max_tokens: the model takes {most}, and not {max_tokens}")
        vocabulary, self.width = embeddings.tokens.shape
        self.blocks, self.heads = len(blocks), blocks[0].heads
        self.row_shape = (max_tokens,)
        self._dtype = np.int16 if vocabulary <= np.iinfo(np.int16).max else np.int32

    def _tokens(self, texts: Ragged) -> Sequence[Sequence[int]]:
        """Return the tokens of each text, at most ``max_tokens``."""
        raise NotImplementedError

    def rows(self, values: Column) -> Array:
        assert isinstance(values, Ragged)
        rows = np.full((len(values), *self.row_shape), _NO_TOKEN, self._dtype)
        if len(values):
            for row, tokens in zip(rows, self._tokens(values), strict=True):
                row[: len(tokens)] = tokens
        return rows

    def lengths(self, rows: Array) -> Ints:
        lengths: Ints = np.maximum((rows != _NO_TOKEN).sum(1), 1)
        return lengths

    def embed(self, rows: Tensor) -> Hidden:
        lengths = (rows != _NO_TOKEN).sum(1).clamp(min=1)
        longest, shortest = int(lengths.max()), int(lengths.min())
        tokens = rows[:, :longest].to(self.device, torch.int64).clamp(min=0)
        mask = None
        if shortest < longest:
            mask = torch.arange(longest) < lengths[:, None]
            mask = mask.to(self.device)
        return Hidden(self.embeddings(tokens), mask)

    def embed_groups(self, groups: Sequence[Tensor]) -> Hidden:
        tokens = [group.to(self.device, torch.int64).clamp(min=0) for group in groups]
        states = torch.cat([self.embeddings(group).flatten(0, 1) for group in tokens])
        behind = padded_tokens(groups) - len(states)
        shapes = [(len(group), group.shape[1]) for group in groups]
        return Hidden(F.pad(states, (0, 0, 0, behind))[None], None, shapes)

    def block(
        self,
        i: int,
        hidden: Hidden,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Hidden:
        blocks = self._blocks if torch.is_grad_enabled() else self._packed
        states, mask, groups = hidden
        return Hidden(blocks[i](states, mask, prefix, adapter, groups), mask, groups)

    def pool(self, hidden: Hidden, prompts: int = 0) -> Tensor:
        """Return the mean over all tokens, as sentence-transformers do, or over the prompts."""
        return hidden.states[:, :prompts].mean(1) if prompts else mean_of_tokens(hidden)

    def weights(self) -> Iterator[Tensor]:
        yield from self.embeddings.weights()
        for block in self._blocks:
            yield from block.weights()

    def move_to(self, device: str) -> None:
        try:
            self.embeddings = self.embeddings.to(device)
            self._blocks = [block.to(device) for block in self._blocks]
            self._packed = self._blocks  # the layout is one for CPUs
        except (RuntimeError, AssertionError) as error:
            raise LearnerError(f"there is no device {device!r}: {one_line(error)}") from error
        self.device = device


class TransformersBackbone(TextBackbone):
    """A model of transformers of the type ``bert``, from a folder or the hub.

    Others are refused: their blocks are made in another way.
    """

    kind = "transformers"
    Config: ClassVar[type[BackboneConfig]] = TransformersBackboneConfig

    def __init__(self, config: Any, feature: Feature) -> None:
        super().__init__(config, feature)
        folder = self._folder(config)
        self._tokenizer, model = load_transformer(folder, self.kind)
        self._max_tokens = config.max_tokens
        if (difference := difference_to_bert(model.config)) is not None:
            key, stated, wanted = difference
            raise LearnerError(
                f"model: its {key} is {stated!r}, and a backbone takes only {wanted!r}: use "
                "it as an encoder (stream.encoder), under a learner on vectors"
            )
        self._set_up(*bert_parts(model), config.max_tokens)
        self.fingerprint = fingerprint_of("bert", config.max_tokens, contents(folder))

    def _folder(self, config: Any) -> Path:
        """Return the folder with the files of the model."""
        return model_folder(config.model, config.revision, self.kind)

    def _tokens(self, texts: Ragged) -> Sequence[Sequence[int]]:
        return tokens_of(texts, self._tokenizer, self._max_tokens)


class MiniLmBackbone(TransformersBackbone):
    """all-MiniLM-L6-v2, from an installed package: see the encoder ``minilm``."""

    kind = "minilm"
    Config = TextBackboneConfig

    def _folder(self, config: Any) -> Path:
        return minilm_folder(self.kind)
