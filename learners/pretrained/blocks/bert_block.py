"""The blocks of BERT, as functions of frozen weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor

from learners.pretrained.blocks.attention import Groups, Prefix, attend, attend_in_groups
from learners.pretrained.blocks.linear import Linear

Adapter = Callable[[Tensor], Tensor]
"""Maps (n, length, width) to what is added to the output of a feed-forward part, of that shape."""


class Places:
    """Where the tokens of padded rows are.

    Args:
        mask: (n, length) bool, the tokens.
    """

    def __init__(self, mask: Tensor) -> None:
        self._shape = mask.shape
        self._at = mask.flatten().nonzero()[:, 0]

    def tokens(self, rows: Tensor) -> Tensor:
        """Return the tokens (m, width) of rows (n, length, width)."""
        return rows.flatten(0, 1).index_select(0, self._at)

    def padded(self, tokens: Tensor) -> Tensor:
        """Return rows (n, length, width) with zeros where no tokens (m, width) are."""
        flat = tokens.new_zeros(self._shape.numel(), tokens.shape[1])
        return flat.index_copy(0, self._at, tokens).view(*self._shape, -1)


class Frozen:
    """Weights that nothing trains: a dataclass with fields of type ``Linear``."""

    def _linear(self) -> dict[str, Linear]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in values.items() if isinstance(value, Linear)}

    def weights(self) -> Iterator[Tensor]:
        """Yield all weights, in a fixed order."""
        for pair in self._linear().values():
            yield from pair

    def to(self, device: str) -> Self:
        """Return the same on a device of torch."""
        moved = {name: pair.to(device) for name, pair in self._linear().items()}
        return replace(self, **moved)  # type: ignore[type-var]


@dataclass(frozen=True)
class BertBlock(Frozen):
    """A block of BERT (Devlin et al. 2019): attention, then a feed-forward part, each added to its
    input and normalised *after* that.

    Attributes:
        projection: to queries, keys and values, one below the other.
        attended: the linear map of what was attended to.
        attention_norm: of the sum after attention.
        up, down: the feed-forward part, with GELU between.
        output_norm: of the sum after it.
        heads: of attention.
        epsilon: of the norms.
    """

    projection: Linear
    attended: Linear
    attention_norm: Linear
    up: Linear
    down: Linear
    output_norm: Linear
    heads: int
    epsilon: float

    @classmethod
    def of(cls, layer: Any, heads: int, epsilon: float) -> BertBlock:
        """Return the block of a ``BertLayer`` of transformers."""
        attention, output = layer.attention.self, layer.attention.output
        return cls(
            projection=Linear.of(attention.query, attention.key, attention.value),
            attended=Linear.of(output.dense),
            attention_norm=Linear.of(output.LayerNorm),
            up=Linear.of(layer.intermediate.dense),
            down=Linear.of(layer.output.dense),
            output_norm=Linear.of(layer.output.LayerNorm),
            heads=heads,
            epsilon=epsilon,
        )

    def packed(self) -> BertBlock:
        """Return the same block with linear maps that are faster without gradients."""
        names = ("projection", "attended", "up", "down")
        return replace(self, **{name: getattr(self, name).packed() for name in names})

    def __call__(
        self,
        hidden: Tensor,
        mask: Tensor | None = None,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
        groups: Groups | None = None,
    ) -> Tensor:
        """Return the hidden states (n, length, width) after the block.

        Args:
            hidden: (n, length, width).
            mask: (n, length) bool, the tokens; None: all places are tokens.
            prefix: keys and values before those of the tokens.
            adapter: takes the input of the feed-forward part. What it gives is added to the output
                of that part, before the norm: behind the norm it would leave the scale that the
                next block expects.
            groups: where the states (1, m, width) are of rows of several lengths, one behind the
                other: how many rows of which length. There is no prefix then.
        """
        if groups is not None:
            asked = attend_in_groups(self.projection.apply(hidden), self.heads, groups)
            return self._after_attention(hidden, asked, adapter)
        if mask is None:
            asked = attend(self.projection.apply(hidden), self.heads, None, prefix)
            return self._after_attention(hidden, asked, adapter)
        # Tokens alone are multiplied: of ten sentences, about a third of all places are padding.
        places = Places(mask)
        tokens = places.tokens(hidden)
        asked = attend(places.padded(self.projection.apply(tokens)), self.heads, mask, prefix)
        if adapter is not None:
            adapter = partial(_of_tokens, adapter, places)
        return places.padded(self._after_attention(tokens, places.tokens(asked), adapter))

    def _after_attention(self, hidden: Tensor, asked: Tensor, adapter: Adapter | None) -> Tensor:
        hidden = self._norm(hidden + self.attended.apply(asked), self.attention_norm)
        output = hidden + self.down.apply(self.up.apply(hidden, gelu=True))
        if adapter is not None:
            output = output + adapter(hidden)
        return self._norm(output, self.output_norm)

    def _norm(self, hidden: Tensor, norm: Linear) -> Tensor:
        return F.layer_norm(hidden, hidden.shape[-1:], *norm, self.epsilon)


def _of_tokens(adapter: Adapter, places: Places, tokens: Tensor) -> Tensor:
    """Return what an adapter of padded rows gives for tokens (m, width)."""
    return places.tokens(adapter(places.padded(tokens)))


@dataclass(frozen=True)
class BertEmbeddings(Frozen):
    """The input of the first block of BERT.

    Attributes:
        tokens: the vector (vocabulary, width) of each token.
        positions: the vector (most tokens, width) of each place, with that of the first segment.
        norm: of their sum.
        epsilon: of the norm.
    """

    tokens: Tensor
    positions: Tensor
    norm: Linear
    epsilon: float

    @classmethod
    def of(cls, module: Any, epsilon: float) -> BertEmbeddings:
        """Return the input of a ``BertEmbeddings`` of transformers."""
        segment = module.token_type_embeddings.weight[0].detach()
        return cls(
            tokens=module.word_embeddings.weight.detach(),
            positions=module.position_embeddings.weight.detach() + segment,
            norm=Linear.of(module.LayerNorm),
            epsilon=epsilon,
        )

    def __call__(self, tokens: Tensor) -> Tensor:
        """Return the input (n, length, width) of the first block for tokens (n, length) int64."""
        rows = F.embedding(tokens, self.tokens) + self.positions[: tokens.shape[1]]
        return F.layer_norm(rows, rows.shape[-1:], *self.norm, self.epsilon)

    def weights(self) -> Iterator[Tensor]:
        yield from (self.tokens, self.positions, *self.norm)

    def to(self, device: str) -> BertEmbeddings:
        tokens, positions = self.tokens.to(device), self.positions.to(device)
        return replace(self, tokens=tokens, positions=positions, norm=self.norm.to(device))


def difference_to_bert(config: Any) -> tuple[str, object, object] | None:
    """Return in what a model of transformers differs from the blocks here, by its configuration.

    Returns:
        A key, its value, and the value that the blocks here are made for; None: it is the same.
    """
    made_for = {"model_type": "bert", "hidden_act": "gelu", "is_decoder": False}
    for key, wanted in made_for.items():
        if (stated := getattr(config, key, None)) != wanted:
            return key, stated, wanted
    key, wanted = "position_embedding_type", "absolute"
    stated = getattr(config, key, wanted)
    return None if stated == wanted else (key, stated, wanted)


def bert_parts(model: Any) -> tuple[BertEmbeddings, list[BertBlock]]:
    """Return the embeddings and the blocks of a ``BertModel`` of transformers."""
    heads, epsilon = model.config.num_attention_heads, model.config.layer_norm_eps
    blocks = [BertBlock.of(layer, heads, epsilon) for layer in model.encoder.layer]
    return BertEmbeddings.of(model.embeddings, epsilon), blocks
