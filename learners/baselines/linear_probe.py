"""A linear classifier trained by gradient steps: the control of closed forms on frozen features."""

from __future__ import annotations

from typing import Any

from pydantic import field_validator

from learners.baselines.finetune import Finetune
from learners.networks.base import NetworkConfig
from learners.networks.modules import Mlp, ModelConfig
from streams.core.schema import Task


class LinearProbeConfig(NetworkConfig):
    """Settings of ``linear-probe``: those of ``finetune``, with a linear model."""

    model: ModelConfig = Mlp(kind="mlp", hidden=())

    @field_validator("model")
    @classmethod
    def _is_linear(cls, model: ModelConfig) -> ModelConfig:
        if not isinstance(model, Mlp) or model.hidden:
            raise ValueError("a linear probe has no hidden layers: leave it out, or take finetune")
        return model


class LinearProbe(Finetune):
    """Fine-tune one linear layer on each new event (Alain and Bengio 2016, "Understanding
    intermediate layers using linear classifier probes", here online)."""

    kind = "linear-probe"
    Config = LinearProbeConfig

    @classmethod
    def example(cls, task: Task) -> dict[str, Any]:
        return super().example(task) | {"model": {"kind": "mlp", "hidden": []}}
