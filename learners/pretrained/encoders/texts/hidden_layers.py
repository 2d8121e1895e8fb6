"""The hidden states of a transformer, by the blocks here or by its library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from learners.pretrained.blocks.bert_block import bert_parts, difference_to_bert

_PROBE = 24  # tokens
_CLOSE = 2e-5  # of the largest number: what the order of additions changes is a fifth of it


class HiddenLayers(Protocol):
    """The hidden states of a transformer for rows of one length.

    Attributes:
        rounding: the name and version of the arithmetic.
    """

    rounding: str

    def __call__(self, tokens: Tensor, last: int) -> Sequence[Tensor]:
        """Return the hidden states (n, length, width) after each of the ``last`` last blocks.

        Args:
            tokens: (n, length) int64.
            last: 1 to the number of blocks.
        """

    def weights(self) -> Iterator[Tensor]:
        """Yield all weights."""

    def to(self, device: str) -> object:
        """Move the weights to a device of torch."""


class LibraryLayers:
    """The hidden states of any model of transformers, by its own modules."""

    rounding = "transformers"

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, tokens: Tensor, last: int) -> Sequence[Tensor]:
        if last == 1:
            return [self._model(input_ids=tokens).last_hidden_state]
        states = self._model(input_ids=tokens, output_hidden_states=True).hidden_states
        return cast(Sequence[Tensor], states[-last:])

    def weights(self) -> Iterator[Tensor]:
        yield from self._model.parameters()

    def to(self, device: str) -> None:
        self._model.to(device)


class BertLayers:
    """The hidden states of a model of the type ``bert``, by the blocks here.

    The modules of the library take twice as long for one short text: they multiply by weights in
    the layout of the file, three times where one product would do. Blocks here also give a row the
    same bits in a batch of any size, on processors that were tried.
    """

    rounding = "bert blocks 1"

    def __init__(self, model: Any) -> None:
        self._embeddings, blocks = bert_parts(model)
        self._blocks = [block.packed() for block in blocks]

    def __call__(self, tokens: Tensor, last: int) -> Sequence[Tensor]:
        states = [self._embeddings(tokens)]
        for block in self._blocks:
            states = [*states, block(states[-1])][-last:]
        return states

    def weights(self) -> Iterator[Tensor]:
        yield from self._embeddings.weights()
        for block in self._blocks:
            yield from block.weights()

    def to(self, device: str) -> None:
        self._embeddings = self._embeddings.to(device)
        self._blocks = [block.to(device) for block in self._blocks]


def hidden_layers(model: Any) -> HiddenLayers:
    """Return the hidden states of a model of transformers, in the fastest way that gives them.

    The blocks here are taken for a model that they are made for, if the states of a row of tokens
    are those of the library in all layers, up to rounding.
    """
    library = LibraryLayers(model)
    about = model.config
    if difference_to_bert(about) is not None:
        return library
    layers = BertLayers(model)
    length = min(_PROBE, about.max_position_embeddings)
    tokens = torch.linspace(1, about.vocab_size - 1, length).long()[None]
    with torch.inference_mode():
        pairs = zip(
            layers(tokens, about.num_hidden_layers),
            library(tokens, about.num_hidden_layers),
            strict=True,
        )
        close = all((a - b).abs().max() <= _CLOSE * b.abs().max() for a, b in pairs)
    return layers if close else library
