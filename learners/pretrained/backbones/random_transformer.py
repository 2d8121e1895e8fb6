"""A transformer for texts with random weights: the control of pretrained ones."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
import xxhash
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from learners.pretrained.backbones.texts import TextBackbone, TextBackboneConfig
from learners.pretrained.blocks.bert_block import BertBlock, BertEmbeddings
from learners.pretrained.blocks.linear import Linear
from learners.pretrained.encoders.base import fingerprint_of
from streams.core.batch import Ragged
from streams.core.schema import Feature

_WORDS = re.compile(rb"[^\s]+")
_EPSILON = 1e-12
_SCALE = 0.55  # 0.02 * sqrt(768): what weights of BERT are drawn with, at its width


class RandomTransformerConfig(TextBackboneConfig):
    """Settings of ``random-transformer``.

    Attributes:
        blocks: how many it has.
        width: numbers of a token.
        heads: of attention; the width is a multiple of them.
        vocabulary: tokens that words are hashed to.
        seed: of the weights.
    """

    blocks: PositiveInt = 2
    width: PositiveInt = 32
    heads: PositiveInt = 2
    vocabulary: PositiveInt = 4096
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _divisible(self) -> RandomTransformerConfig:
        if self.width % self.heads:
            raise ValueError(f"a width of {self.width} is no multiple of {self.heads} heads")
        return self


class RandomTransformerBackbone(TextBackbone):
    """A BERT whose weights are drawn from a seed, over hashed words.

    It shows what the weights of a pretrained one are good for, and runs without any file. Weights
    are drawn as BERT's are before its training, from a normal distribution. Its deviation is
    0.55 / sqrt(inputs), which at the width of BERT is the 0.02 of the paper. A text is its words
    between spaces, after one token that begins every text.
    """

    kind = "random-transformer"
    Config = RandomTransformerConfig

    def __init__(self, config: Any, feature: Feature) -> None:
        super().__init__(config, feature)
        self._most, self._vocabulary = config.max_tokens, config.vocabulary
        draw = partial(torch.randn, generator=torch.Generator().manual_seed(config.seed))
        width = config.width
        norm = Linear(torch.ones(width), torch.zeros(width))

        def linear(inputs: int, outputs: int) -> Linear:
            return Linear(draw(outputs, inputs) * (_SCALE / inputs**0.5), torch.zeros(outputs))

        def table(rows: int) -> Tensor:
            return draw(rows, width)

        embeddings = BertEmbeddings(
            table(config.vocabulary + 1), 0.1 * table(config.max_tokens), norm, _EPSILON
        )
        blocks = [
            BertBlock(
                projection=linear(width, 3 * width),
                attended=linear(width, width),
                attention_norm=norm,
                up=linear(width, 4 * width),
                down=linear(4 * width, width),
                output_norm=norm,
                heads=config.heads,
                epsilon=_EPSILON,
            )
            for _ in range(config.blocks)
        ]
        self._set_up(embeddings, blocks, config.max_tokens)
        settings = tuple(config.model_dump().items())
        self.fingerprint = fingerprint_of(self.kind, settings)

    def _tokens(self, texts: Ragged) -> Sequence[Sequence[int]]:
        data, bounds = texts.values.tobytes(), texts.bounds.tolist()
        return [
            [0, *map(self._token, _WORDS.findall(data[start:stop]))][: self._most]
            for start, stop in pairwise(bounds)
        ]

    def _token(self, word: bytes) -> int:
        code: int = xxhash.xxh64_intdigest(word) % self._vocabulary
        return 1 + code
