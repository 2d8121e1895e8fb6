"""From the outputs of a network for classes to the loss, probabilities and predicted classes."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from learners.base import LearnerError
from learners.networks.class_weights import ClassWeights
from streams.core.batch import Array, ClassName
from streams.core.schema import Schema
from streams.core.state_dict import State


class ClassOutputs:
    """Give meaning to the outputs of a network for classes: loss, probabilities, classes.

    Without any setting that is cross-entropy, softmax and the likeliest class.

    With class weights w the network learns the probabilities of a stream in which class c is w_c
    times as frequent. Those of the stream itself are

        p_c = softmax(out - log w)_c

    (Saerens, Latinne and Decaestecker 2002, "Adjusting the Outputs of a Classifier to New a Priori
    Probabilities"; King and Zeng 2001 for two classes). The weights are those of now. The predicted
    class stays that of the largest w_c * p_c, which is the largest output: weights ask for it. It
    may differ from the likeliest class.

    Args:
        config: settings of the learner.
        schema: of the stream.
        device: on which outputs and labels of a loss are.

    Raises:
        LearnerError: a setting does not fit the stream.
    """

    def __init__(self, config: Any, schema: Schema, device: str) -> None:
        if schema.task == "regression" and config.class_weight is not None:
            raise LearnerError(
                "learner.class_weight: it weighs classes, but the label of this stream is for "
                "regression: leave it out"
            )
        self._device = device
        self._weights: ClassWeights | None = None
        if config.class_weight is not None:
            self._weights = ClassWeights(config.class_weight, schema.classes)
            self._refresh()

    def _refresh(self) -> None:
        """Take over the weights as they are now."""
        assert self._weights is not None
        values = torch.from_numpy(self._weights.values)
        self._logs = values.log().to(torch.float32)
        self._factors = values.to(torch.float32).to(self._device)

    def register(self, classes: tuple[ClassName, ...]) -> None:
        """Note the classes known by now, one for each output."""
        if self._weights is not None:
            self._weights.register(classes)
            self._refresh()

    def count(self, y: Array) -> None:
        """Count labels (m,) that the network learns next."""
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

    def predict(self, out: Tensor) -> tuple[Array, Array]:
        """Return class codes (n,) and probabilities (n, k) float32 for outputs (n, k) on the CPU.

        Pure. There is at least one class.
        """
        if self._weights is None:
            proba: Array = torch.softmax(out, 1).numpy()
            return proba.argmax(1), proba
        proba = torch.softmax(out - self._logs, 1).numpy()
        value: Array = out.argmax(1).numpy()
        return value, proba

    def state(self) -> State:
        """Return the state; nothing where nothing is set."""
        return {} if self._weights is None else {"weights": self._weights.state()}

    def load(self, state: State, classes: tuple[ClassName, ...]) -> None:
        """Load a ``state``. What an older one lacks starts anew."""
        if self._weights is not None:
            self._weights.load(state.get("weights", {}), classes)
            self._refresh()
