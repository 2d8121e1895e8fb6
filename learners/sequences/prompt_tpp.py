"""A temporal point process with pools of continuous-time prompts."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from learners.sequences.networks.attentive import Attended, AttentiveConfig
from learners.sequences.networks.prompted import Prompted
from learners.sequences.tpp import SequenceExamples, Tpp, TppConfig
from streams.core.schema import Task


class PromptTppConfig(TppConfig):
    """Settings of ``prompt-tpp``.

    Attributes:
        model: the network; only ``attentive`` has prompts.
        pool: prompts of each pool. Each head of each layer has one for its keys and one for its
            values.
        length: vectors of a prompt.
        top: prompts for each history.
        pull: the factor alpha of the loss that pulls keys to the queries they are chosen for; 0:
            keys stay as drawn.
        vote: whether all histories of a step are trained with the prompts that most of them choose.
        frequency_penalty: whether prompts that were used often are chosen less while training.
        refresh_every: each how many gradient steps prompts and keys move; the network always does.
        estimate: the time of the next event in prompts: ``gaps`` of the history, or ``learned``.
    """

    model: AttentiveConfig = AttentiveConfig()
    pool: PositiveInt = 10
    length: PositiveInt = 5
    top: PositiveInt = 5
    pull: NonNegativeFloat = 0.1
    vote: bool = False
    frequency_penalty: bool = False
    refresh_every: PositiveInt = 2
    estimate: Literal["gaps", "learned"] = "gaps"


class PromptTpp(Tpp):
    """Learn a network slowly enough to keep, and prompts that are chosen by the history (Xue et al.
    2023, "Prompt-augmented Temporal Point Process for Streaming Event Sequence").

    The loss has the pull of the pools in addition. Prompts and keys move in every
    ``refresh_every``-th gradient step and keep their bits in all others, which is *asynchronous
    refresh*. In the authors' program they move in the first step only, as it switches gradients
    after the forward pass.
    """

    kind = "prompt-tpp"
    Config = PromptTppConfig
    config: PromptTppConfig
    net: Prompted

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return {**super().example(task), "pool": 4, "length": 2, "top": 2}

    def _network(self, types: int) -> Prompted:
        return Prompted(self.config.model, self.config, types, self.seed)

    def descend(self, examples: SequenceExamples, number: int) -> None:
        encoded: Attended = self._encoded(examples)
        likelihood = self.likelihood(encoded, examples)
        loss = -(likelihood.time + likelihood.types).mean()
        if encoded.pull is not None:
            loss = loss + encoded.pull
        if self.config.estimate == "learned":
            assert encoded.next_time is not None
            loss = loss + self.net.estimate_error(encoded.next_time, self._next(examples))
        refresh = number % self.config.refresh_every == 0
        self.net.count_uses(encoded.chosen)
        self.optimizer.step(loss, self.net.moved(encoded.chosen, refresh))
