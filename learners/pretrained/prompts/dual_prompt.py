"""DualPrompt: general and expert prompts before the keys and values of blocks."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn

from learners.base import NEEDS_SEGMENTS, LearnerError
from learners.networks.optimizer import Adam, OptimizerConfig
from learners.pretrained.backbones.base import Hidden
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.prompts.pool import (
    PROMPT_STD,
    PoolConfig,
    PooledParts,
    PoolLearner,
    PromptPool,
)
from learners.pretrained.tuned.base import TunedConfig
from learners.pretrained.tuned.parts import TunedParts
from streams.core.batch import Batch, Ints
from streams.core.schema import Schema

Blocks = tuple[NonNegativeInt, ...]


class DualPromptConfig(PoolConfig):
    """Settings of ``dual-prompt``.

    Attributes:
        general_blocks: where the general prompt acts; None: the first of the upper blocks.
        expert_blocks: where expert prompts act; None: the other upper blocks; where there is only
            one, that one.
        masks: which expert an event trains. ``query``: the one that it would be predicted with.
            ``task``: one for each task, whatever the query.
        every: events of a task; None: the segments of the stream.
    """

    optimizer: OptimizerConfig = Adam(lr=3e-3)
    general_blocks: Blocks | None = None
    expert_blocks: Blocks | None = None
    masks: Literal["query", "task"] = "query"
    every: PositiveInt | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.masks == "task" and self.top != 1:
            raise ValueError("top: a task has one expert: leave top out, or masks")
        if self.general_blocks == () == self.expert_blocks:
            raise ValueError("general_blocks, expert_blocks: no prompt acts anywhere: name a block")
        if self.masks == "query" and self.every is not None:
            raise ValueError("every: tasks have no effect under masks: query; state masks: task")
        return self


class Prefixes(PooledParts):
    """A general prefix for all rows, and the expert prefixes that a row chooses.

    A prefix of a block is ``length`` keys and as many values, after the projection of the block.

    Args:
        trunk: the blocks below.
        pool: of expert prompts (expert blocks, 2, length, width) each.
        general: the blocks of the general prompt.
        expert: those of expert prompts.
        by_task: whether experts are assigned while training. Prompts that no event has trained are
            then not chosen: their keys are as drawn.

    Attributes:
        general: the general prompt (general blocks, 2, length, width).
        assigned: the experts (n,) of the rows to come; None: they choose.
    """

    def __init__(
        self, trunk: Trunk, pool: PromptPool, general: Blocks, expert: Blocks, by_task: bool
    ) -> None:
        super().__init__(trunk, pool)
        self._general_blocks, self._expert_blocks, self._by_task = general, expert, by_task
        self.general = nn.Parameter(PROMPT_STD * torch.randn(len(general), *pool.prompts.shape[2:]))
        self.assigned: Ints | None = None

    def nearest(self, queries: Tensor) -> Tensor:
        used = self.pool.uses > 0
        return self.pool.nearest(queries, used if self._by_task and used.any() else None)

    def choose(self, queries: Tensor) -> Tensor:
        if self.assigned is None:
            return super().choose(queries)
        return torch.from_numpy(self.assigned)[:, None].to(queries.device)

    def inject(self, hidden: Hidden, prompts: Tensor) -> Tensor:
        for i in self.trunk.upper_blocks():
            hidden = self.backbone.block(i, hidden, prefix=self._prefix(i, prompts))
        return self.backbone.pool(hidden)

    def _prefix(self, block: int, prompts: Tensor) -> tuple[Tensor, Tensor] | None:
        """Return keys and values (n, length, width) for a block; None where no prompt acts."""
        found = []
        if block in self._general_blocks:
            general = self.general[self._general_blocks.index(block)]
            found.append(general.expand(len(prompts), *general.shape))
        if block in self._expert_blocks:
            experts = prompts[:, :, self._expert_blocks.index(block)]  # (n, N, 2, length, width)
            found.append(experts.transpose(1, 2).flatten(2, 3))
        if not found:
            return None
        keys, values = torch.cat(found, 2).unbind(1)
        return keys, values


class DualPrompt(PoolLearner):
    """DualPrompt (Wang et al. 2022, "DualPrompt: Complementary Prompting for Rehearsal-free
    Continual Learning"), with the pool of ``PromptPool``.

    The paper has one expert for each task, which all its events train; events to predict choose by
    their query. Here no task needs a name. By default an event trains the expert that it would be
    predicted with. With ``masks: task`` event i trains expert i // ``every``, or that of its
    segment in the stream; after the last expert comes the first again. A change detector is no
    third way: those of everlearn watch the errors of a run, which a learner does not see.

    Deviations: prompts act in the last blocks, not in the first, so that the blocks below are
    computed once for each event. The loss and the head are those of ``TunedLearner``. Under
    ``masks: task`` no expert is chosen before an event has trained it.
    """

    kind = "dual-prompt"
    Config: ClassVar[type[TunedConfig]] = DualPromptConfig
    parts: Prefixes

    def __init__(self, config: TunedConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self.needs_boundaries = self.requires_segments

    @property
    def requires_segments(self) -> bool:
        return self.config.masks == "task" and self.config.every is None

    def new_parts(self, trunk: Trunk) -> TunedParts:
        upper = tuple(trunk.upper_blocks())
        general = self._blocks("general_blocks", upper, upper[:1])
        expert = self._blocks("expert_blocks", upper, upper[1:] or upper)
        pool = self.new_pool((len(expert), 2, self.config.length, self.backbone.width))
        return Prefixes(trunk, pool, general, expert, self.config.masks == "task")

    def _blocks(self, key: str, upper: Blocks, default: Blocks) -> Blocks:
        stated = getattr(self.config, key)
        blocks = default if stated is None else tuple(sorted(set(stated)))
        if not set(blocks) <= set(upper):
            raise LearnerError(
                f"learner.{key}: prompts act in blocks {upper[0]} to {upper[-1]}, and not in "
                f"{min(set(blocks) - set(upper))}: state others, or another learner.first_block"
            )
        return blocks

    def learn_first(self, batch: Batch) -> None:
        self.parts.assigned = self._experts(batch)
        super().learn_first(batch)
        self.parts.assigned = None

    def _experts(self, batch: Batch) -> Ints | None:
        """Return the experts (m,) that events train; None: those that they choose."""
        if self.config.masks == "query":
            return None
        if self.config.every is not None:
            task = (self._seen + np.arange(len(batch))) // self.config.every
        elif batch.segment is not None:
            task = batch.segment
        else:
            raise LearnerError(f"learner.every: this learner {NEEDS_SEGMENTS}")
        experts: Ints = np.asarray(task, np.int64) % self.config.pool
        return experts
