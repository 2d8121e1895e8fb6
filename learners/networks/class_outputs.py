"""From the outputs of a network for classes to the loss, probabilities and predicted classes."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from learners.base import LearnerError
from learners.networks.calibration import REACH, Temperature
from learners.networks.class_weights import ClassWeights, class_text
from learners.networks.decision import DecisionConfig, decision_of
from streams.core.batch import Array, ClassName, Ints
from streams.core.schema import Schema
from streams.core.state_dict import State


class ClassSettings(Protocol):
    """The settings of a network learner that are about classes."""

    @property
    def class_weight(self) -> Literal["balanced"] | dict[str, float] | None: ...

    @property
    def calibration(self) -> Literal["temperature"] | None: ...

    @property
    def decision(self) -> DecisionConfig | None: ...


def unseen_classes(config: ClassSettings, classes: tuple[ClassName, ...]) -> tuple[str, ...]:
    """Return a warning for each class that a setting names and a sample with classes lacks."""
    named: dict[str, set[str]] = {}
    if isinstance(config.class_weight, dict):
        named["class_weight"] = set(config.class_weight)
    if config.decision is not None:
        named["decision"] = config.decision.class_names()
    known = [class_text(name) for name in classes]
    return tuple(
        f"learner.{setting} names the class {name!r}, which is not in the sample: it has "
        f"{', '.join(map(repr, known))}; check its spelling, or state all classes under "
        "stream.label.classes"
        for setting, names in named.items()
        for name in sorted(names.difference(known))
        if known
    )


class ClassOutputs:
    """Give meaning to the outputs of a network for classes: loss, probabilities, classes.

    Without any setting that is cross-entropy, softmax and the likeliest class.

    With class weights w the network learns the probabilities of a stream in which class c is w_c
    times as frequent. Those of the stream itself are

        p_c = softmax(out / T - log w)_c

    (Saerens, Latinne and Decaestecker 2002, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities"; King and Zeng 2001 for two classes). The weights are those of now. T is the
    temperature, 1 without calibration. It divides what the network gives, before the correction:
    outputs that say nothing then give the shares of the classes, at any T.

    The predicted class is what the decision rule chooses by p. Without a rule it is that of the
    largest w_c * p_c, which is the largest output: weights ask for it. It may differ from the
    likeliest class.

    Args:
        config: settings of the learner.
        schema: of the stream.
        device: on which outputs and labels of a loss are.
        reach: how far the temperature goes either way.

    Raises:
        LearnerError: a setting does not fit the stream.
    """

    def __init__(
        self, config: ClassSettings, schema: Schema, device: str, reach: float = REACH
    ) -> None:
        if schema.task == "regression":
            for name in ("class_weight", "calibration", "decision"):
                if getattr(config, name) is not None:
                    raise LearnerError(
                        f"learner.{name}: it is about classes, but the label of this stream is for "
                        "regression: leave it out"
                    )
        self._device = device
        self._weights: ClassWeights | None = None
        if config.class_weight is not None:
            self._weights = ClassWeights(config.class_weight, schema.classes)
            self._refresh()
        self._temperature = None if config.calibration is None else Temperature(reach)
        self._decision = decision_of(config.decision, schema.classes)
        self._plain = not self._parts()

    @property
    def evaluates(self) -> bool:
        """Whether ``evaluate`` has an effect."""
        decides = self._decision is not None and self._decision.evaluates
        return decides or self._temperature is not None

    def _parts(self) -> dict[str, Any]:
        """Return the parts that are set, by their names in a state."""
        parts = {
            "weights": self._weights,
            "temperature": self._temperature,
            "decision": self._decision,
        }
        return {name: part for name, part in parts.items() if part is not None}

    def _refresh(self) -> None:
        """Take over the weights as they are now."""
        assert self._weights is not None
        values = torch.from_numpy(self._weights.values)
        self._logs = values.log().to(torch.float32)
        self._factors = values.to(torch.float32).to(self._device)

    def register(self, classes: tuple[ClassName, ...]) -> None:
        """Note the classes known by now, one for each output. Raise ``LearnerError`` where there
        are more than the decision rule can take."""
        if self._weights is not None:
            self._weights.register(classes)
            self._refresh()
        if self._decision is not None:
            self._decision.register(classes)

    def evaluate(self, out: Tensor, y: Ints) -> None:
        """Fit calibration and decision to revealed events, before the network learns them.

        Args:
            out: (n, k) outputs on the CPU, k >= 1.
            y: (n,) class codes. Events of classes without an output are left out, and those whose
                outputs are not finite: a diverged network is reported elsewhere.
        """
        proba = self._probabilities(out)
        usable = (y < out.shape[1]) & np.isfinite(proba).all(1)
        if not usable.all():
            out, y, proba = out[torch.from_numpy(usable)], y[usable], proba[usable]
        if not len(y):
            return
        if self._decision is not None and self._decision.evaluates:
            self._decision.update(proba, y)
        if self._temperature is not None:
            self._temperature.update(out.numpy(), y, proba)

    def count(self, y: Ints) -> None:
        """Count labels (n,) that the network learns next."""
        if self._weights is not None:
            self._weights.update(y)
            self._refresh()

    def cross_entropy(self, out: Tensor, y: Tensor, reduction: str, codes: Tensor | None) -> Tensor:
        """Return the cross-entropy of outputs (n, k) for labels (n,); its mean is weighted.

        Args:
            out: the outputs.
            y: indices of outputs.
            reduction: as in torch. With ``none``, no event is weighted.
            codes: (k,) the class code of each output; None: all classes.
        """
        if self._weights is None or reduction != "mean":
            return F.cross_entropy(out, y, reduction=reduction)
        factors = self._factors if codes is None else self._factors[codes]
        return F.cross_entropy(out, y, factors, reduction="sum") / len(y)

    def gradient(self, out: Tensor, y: Tensor) -> Tensor:
        """Return the gradient (n, k) of the mean ``cross_entropy`` of outputs for labels (n,)."""
        gradient = torch.softmax(out, 1)
        gradient.scatter_(1, y[:, None], -1, reduce="add")
        gradient /= len(y)
        if self._weights is not None:
            gradient *= self._factors[y][:, None]
        return gradient

    def predict(self, out: Tensor) -> tuple[Ints, Array]:
        """Return class codes (n,) and probabilities (n, k) float32 for outputs (n, k) on the CPU.

        Pure. There is at least one class.
        """
        proba = self._probabilities(out)
        if self._decision is not None:
            return self._decision.choose(proba), proba
        value: Ints = proba.argmax(1) if self._plain else out.argmax(1).numpy()
        return value, proba

    def _probabilities(self, out: Tensor) -> Array:
        if self._temperature is not None:
            out = out * self._temperature.inverse
        if self._weights is not None:
            out = out - self._logs
        proba: Array = torch.softmax(out, 1).numpy()
        return proba

    def servable(self) -> State:
        """Return what ``predict`` needs; nothing where nothing is set."""
        return {name: part.servable() for name, part in self._parts().items()}

    def state(self) -> State:
        """Return the state; nothing where nothing is set."""
        return {name: part.state() for name, part in self._parts().items()}

    def load(self, state: State, classes: tuple[ClassName, ...]) -> None:
        """Load a ``state`` or a ``servable``. What an older one lacks starts anew."""
        for name, part in self._parts().items():
            part.load(state.get(name, {}))
        self.register(classes)
