"""The interface of a frozen transformer that runs block by block."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from learners.base import LearnerError
from learners.pretrained.backbones.kept_states import KeptStates
from learners.pretrained.blocks.attention import Groups, Prefix
from learners.pretrained.blocks.bert_block import Adapter
from learners.pretrained.encoders.base import EncoderConfig
from streams.core.batch import Array, Column, Ints
from streams.core.schema import Feature, FeatureKind


class BackboneConfig(EncoderConfig):
    """Settings of a backbone: the keys under ``learner.backbone`` of a job."""


class Hidden(NamedTuple):
    """The hidden states of n rows between two blocks.

    Attributes:
        states: (n, length, width).
        mask: (n, length) bool, the places that are tokens; None: all are.
        groups: where the states (1, m, width) are of rows of several lengths, one behind the other:
            how many rows of which length. Only a ``Trunk`` makes such states.
    """

    states: Tensor
    mask: Tensor | None = None
    groups: Groups | None = None


class Backbone(ABC):
    """A frozen transformer over one column.

    It learns nothing and has no state. All learners of a process with equal settings share one
    (``load_backbone``). What is trained is given to its blocks with each call:

    - a *prefix* of keys and values (Li and Liang 2021, "Prefix-Tuning"), put before those of a
      block;
    - *prompts*: tokens put before those of a row (``prepend``; Lester et al. 2021);
    - an *adapter*: a function that is added in parallel to a feed-forward part (He et al. 2022,
      "Towards a Unified View of Parameter-Efficient Transfer Learning"; Chen et al. 2022,
      "AdaptFormer").

    Keys and values of a prefix are those *after* the projection of the block, as in the authors'
    code of DualPrompt; the formula in the paper has them before. A prefix p before corresponds to
    p W + b after it: both can say the same, and this one costs no product.

    A prefix without length, and an adapter that gives zeros, change no result beyond rounding.

    A subclass sets ``kind``, ``Config`` and ``kinds``, and in its constructor the other attributes.

    Args:
        config: settings, of the class ``Config``.
        feature: the column.

    Raises:
        LearnerError: it does not take columns of this kind; its library is not installed; or its
            weights cannot be loaded.

    Attributes:
        kind: the name of the backbone in a job.
        kinds: the kinds of columns that it takes.
        blocks: how many it has.
        width: numbers of a token.
        heads: of attention.
        row_shape: of one row.
        batch_rows: rows of a batch that suit a forward pass.
        batch_tokens: tokens of such a batch.
        fingerprint: a hash of all that determines the result for a value.
        device: of torch, where it computes.
        kept: the caches that its trunks share, by the first block after them and whether they keep
            queries.
    """

    kind: ClassVar[str]
    kinds: ClassVar[frozenset[FeatureKind]]
    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    batch_rows: ClassVar[int] = 32
    batch_tokens: ClassVar[int] = 1 << 20
    device: str = "cpu"
    blocks: int
    width: int
    heads: int
    row_shape: tuple[int, ...]
    fingerprint: str

    def __init__(self, config: Any, feature: Feature) -> None:
        if feature.kind not in self.kinds:
            raise LearnerError(
                f"backbone {self.kind!r} takes a column of kind {' or '.join(sorted(self.kinds))}, "
                f"and {feature.name!r} is of kind {feature.kind}"
            )
        self.kept: dict[tuple[int, bool], KeptStates] = {}

    @abstractmethod
    def rows(self, values: Column) -> Array:
        """Return n values as rows (n, *row_shape): what a buffer keeps. Pure."""

    @abstractmethod
    def lengths(self, rows: Array) -> Ints:
        """Return how many tokens each of the rows has: (n,), at least 1."""

    @abstractmethod
    def embed(self, rows: Tensor) -> Hidden:
        """Return the input of the first block for n >= 1 rows (n, *row_shape).

        Places at the end that no row needs are cut.
        """

    def embed_groups(self, groups: Sequence[Tensor]) -> Hidden:
        """Return the input of the first block for groups of rows (n, length), of one length each.

        By default there is one group.
        """
        (rows,) = groups
        return self.embed(rows)

    @abstractmethod
    def block(
        self,
        i: int,
        hidden: Hidden,
        prefix: Prefix | None = None,
        adapter: Adapter | None = None,
    ) -> Hidden:
        """Return the hidden states after block ``i``.

        Args:
            i: from 0.
            hidden: the states before it.
            prefix: keys and values (n or 1, length, width) each.
            adapter: maps (n, length, width) to what is added to the feed-forward part.
        """

    @abstractmethod
    def pool(self, hidden: Hidden, prompts: int = 0) -> Tensor:
        """Return one vector (n, width) of each row, of the states after the last block.

        Where the first ``prompts`` > 0 places are prompts, it is the mean over these, as in L2P.
        """

    @abstractmethod
    def weights(self) -> Iterator[Tensor]:
        """Yield all weights, in a fixed order."""

    @abstractmethod
    def move_to(self, device: str) -> None:
        """Move the weights to a device of torch. Raises ``LearnerError`` where there is none."""

    def memory_bytes(self) -> int:
        """Return the bytes of the weights."""
        return sum(weight.nbytes for weight in self.weights())


def prepend(hidden: Hidden, prompts: Tensor) -> Hidden:
    """Return hidden states with prompts (n or 1, length, width) before the tokens of each row."""
    n, length = len(hidden.states), prompts.shape[1]
    states = torch.cat([prompts.expand(n, -1, -1), hidden.states], 1)
    mask = hidden.mask
    if mask is not None:
        mask = torch.nn.functional.pad(mask, (length, 0), value=True)
    return Hidden(states, mask)


def without_prompts(hidden: Hidden, count: int) -> Hidden:
    """Return hidden states without the first ``count`` places."""
    mask = hidden.mask
    return Hidden(hidden.states[:, count:], None if mask is None else mask[:, count:])


def mean_of_tokens(hidden: Hidden) -> Tensor:
    """Return the mean (n, width) over the tokens of each row."""
    if hidden.mask is None:
        return hidden.states.mean(1)
    mask = hidden.mask[:, :, None].to(hidden.states.dtype)
    return (hidden.states * mask).sum(1) / mask.sum(1)
