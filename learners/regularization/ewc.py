"""EWC, elastic weight consolidation, in its online form.

Kirkpatrick et al. 2017, "Overcoming Catastrophic Forgetting in Neural Networks"; online: Schwarz et
al. 2018, "Progress & Compress".
"""

from __future__ import annotations

from pydantic import Field

from learners.regularization.base import Segmented, SegmentedConfig
from streams.core.batch import Batch
from streams.core.schema import Schema
from streams.core.state_dict import State


class EwcConfig(SegmentedConfig):
    """Settings of EWC.

    Attributes:
        weight: of the penalty (lambda).
        decay: factor on the importance of a weight at the end of each later task (gamma).
    """

    weight: float = Field(10.0, ge=0)
    decay: float = Field(0.95, ge=0, le=1)


class Ewc(Segmented):
    """Fine-tuning with a penalty on changing weights that earlier tasks depend on.

        loss = CE(new events) + weight / 2 * sum_i F_i * (w_i - w*_i)**2

    At the end of a task w* becomes the present weights, and F = decay * F + F of the task. No
    events are stored.

    F of a task is the mean, over its gradient steps, of the squared gradient of the micro-batch
    times the number of its events. It needs no extra pass, as in EWC++ (Chaudhry et al. 2018,
    "Riemannian Walk"), but is taken along the training and not at its end. For n independent events
    it is the mean of the squared gradients of single events (the empirical Fisher information),
    plus n - 1 times the square of their mean. That excess is zero where training has converged, and
    too large where it has not.

    The penalty is not in the gradient. After each step of the optimizer, weights are pulled back:

        w = (w + r * w*) / (1 + r),   r = lr * weight * F

    This is the implicit step down the penalty. It equals the explicit step to first order. It moves
    a weight towards w* and never beyond, at any r, where the explicit step diverges from r = 2. It
    is independent of Adam's scaling, as decoupled weight decay is.
    """

    kind = "ewc"
    Config = EwcConfig

    def __init__(self, config: EwcConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self.decay = config.decay
        self._penalty = config.weight * self.optimizer.rate
        # Outputs that are added later have importance 0: they are free to move.
        self.optimizer.keep("running", "fisher", "anchor", "pull")
        self._gradients = 0  # number of gradients in the running sum

    def consolidate(self) -> None:
        state = self.optimizer.per_weight_state
        state["fisher"].mul_(self.decay).add_(state["running"], alpha=1 / self._gradients)
        state["running"].zero_()
        self._gradients = 0
        state["anchor"].copy_(self.optimizer.weights)
        r = (self._penalty * state["fisher"]).clamp_(max=1e30)  # otherwise infinity / infinity
        state["pull"].copy_(r / (1 + r))

    def learn_part(self, part: Batch) -> None:
        assert part.y is not None
        x, y = self.tensor(self.inputs.rows(part)), self.labels(part.y)
        state = self.optimizer.per_weight_state
        for _ in range(self.config.steps):
            gradient = self.optimizer.gradient(self.loss(x, y))
            state["running"].addcmul_(gradient, gradient, value=len(part))
            self._gradients += 1
            self.optimizer.move(gradient)
            self.optimizer.weights.lerp_(state["anchor"], state["pull"])

    def state(self) -> State:
        return {**super().state(), "gradients": self._gradients}

    def load(self, state: State) -> None:
        super().load(state)
        self._gradients = state["gradients"]
