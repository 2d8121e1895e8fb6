"""EWC, elastic weight consolidation (Kirkpatrick et al. 2017, "Overcoming Catastrophic Forgetting
in Neural Networks"), online (Schwarz et al. 2018, "Progress & Compress")."""

from __future__ import annotations

from pydantic import Field

from learners.regularization.base import Segmented, SegmentedConfig
from streams.core.batch import Batch
from streams.core.schema import Schema
from streams.core.state_dict import State


class EwcConfig(SegmentedConfig):
    """Settings of EWC.

    Attributes:
        weight: of the penalty: lambda.
        decay: what is left of the importance of a weight when one more task is over: gamma.
    """

    weight: float = Field(10.0, ge=0)
    decay: float = Field(0.95, ge=0, le=1)


class Ewc(Segmented):
    """Fine-tuning that holds back weights by how much earlier tasks depend on them.

        loss = CE(new events) + weight / 2 * sum_i F_i * (w_i - w*_i)**2

    At the end of a task w* becomes the weights as they are, and F = decay * F + that of the task.
    Nothing is remembered of events.

    F of a task is the mean, over its gradient steps, of the squared gradient of the micro-batch
    times the number of events in it. It costs no pass of its own, as in EWC++ (Chaudhry et al.
    2018, "Riemannian Walk"), but sees the weights on their way and not at the end. For n
    independent events it is the mean of the squared gradients of single events (the empirical
    Fisher information), and n - 1 times the square of their mean more: nothing where training has
    settled, too much where it has not.

    The penalty is not in the gradient. After each step of the optimizer weights are drawn back:

        w = (w + r * w*) / (1 + r),   r = lr * weight * F

    That is the implicit step down the penalty: the same to first order, it takes a weight from
    where it is towards w* and never beyond, however large r is, where the explicit step diverges
    from r = 2 on. It stands beside Adam's scaling, as decoupled weight decay does.
    """

    kind = "ewc"
    Config = EwcConfig

    def __init__(self, config: EwcConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self.decay = config.decay
        self._penalty = config.weight * self.descent.rate
        # Outputs that come later have importance 0, and are free.
        self.descent.keep("running", "fisher", "anchor", "pull")
        self._gradients = 0  # in the running sum

    def consolidate(self) -> None:
        kept = self.descent.per_weight_state
        kept["fisher"].mul_(self.decay).add_(kept["running"], alpha=1 / self._gradients)
        kept["running"].zero_()
        self._gradients = 0
        kept["anchor"].copy_(self.descent.weights)
        r = (self._penalty * kept["fisher"]).clamp_(max=1e30)  # or infinity over infinity
        kept["pull"].copy_(r / (1 + r))

    def learn_part(self, part: Batch) -> None:
        assert part.y is not None
        x, y = self.tensor(self.inputs.rows(part.x)), self.labels(part.y)
        kept = self.descent.per_weight_state
        for _ in range(self.config.steps):
            gradient = self.descent.gradient(self.loss(x, y))
            kept["running"].addcmul_(gradient, gradient, value=len(part))
            self._gradients += 1
            self.descent.move(gradient)
            self.descent.weights.lerp_(kept["anchor"], kept["pull"])

    def state(self) -> State:
        return {**super().state(), "gradients": self._gradients}

    def load(self, state: State) -> None:
        super().load(state)
        self._gradients = state["gradients"]
