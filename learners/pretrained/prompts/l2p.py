"""Learning to Prompt: prompts from a pool before the tokens of an event."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from learners.networks.optimizer import Adam, OptimizerConfig
from learners.pretrained.backbones.base import Hidden, prepend, without_prompts
from learners.pretrained.backbones.trunk import Trunk
from learners.pretrained.prompts.pool import PoolConfig, PooledParts, PoolLearner, PromptPool
from learners.pretrained.tuned.base import TunedConfig
from learners.pretrained.tuned.parts import TunedParts


class L2PConfig(PoolConfig):
    """Settings of ``l2p``.

    Attributes:
        readout: what features are pooled from after the last block: ``tokens`` of the event, as
            without prompts; or the mean of the ``prompts``, as in the paper.
    """

    optimizer: OptimizerConfig = Adam(lr=1e-3)
    readout: Literal["tokens", "prompts"] = "tokens"


class PrependedPrompts(PooledParts):
    """N prompts (length, width) each, before the tokens that enter the first of the upper blocks.

    Args:
        trunk: the blocks below.
        pool: of the prompts.
        readout: as in ``L2PConfig``.
    """

    def __init__(self, trunk: Trunk, pool: PromptPool, readout: str) -> None:
        super().__init__(trunk, pool)
        self._readout = readout

    def inject(self, hidden: Hidden, prompts: Tensor) -> Tensor:
        tokens = prompts.flatten(1, 2)  # (n, N * length, width)
        hidden = prepend(hidden, tokens)
        for i in self.trunk.upper_blocks():
            hidden = self.backbone.block(i, hidden)
        count = tokens.shape[1]
        if self._readout == "prompts":
            return self.backbone.pool(hidden, prompts=count)
        return self.backbone.pool(without_prompts(hidden, count))


class L2P(PoolLearner):
    """L2P (Wang et al. 2022, "Learning to Prompt for Continual Learning"): ``PromptPool``.

    Deviations: the prompts enter at ``first_block``, not at the input, so that the blocks below are
    computed once for each event. There are no tasks: nothing is masked or started afresh at their
    ends. The loss and the head are those of ``TunedLearner``. By default there is one prompt for an
    event, features are pooled from its own tokens, and the rate is lower: with 20 prompt tokens at
    the rate of the paper, features move faster than the sums of a head can follow.
    """

    kind = "l2p"
    Config: ClassVar[type[TunedConfig]] = L2PConfig

    def new_parts(self, trunk: Trunk) -> TunedParts:
        pool = self.new_pool((self.config.length, self.backbone.width))
        return PrependedPrompts(trunk, pool, self.config.readout)
