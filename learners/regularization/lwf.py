"""LwF, learning without forgetting (Li and Hoiem 2016, "Learning without Forgetting")."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from learners.networks import modules as models
from learners.regularization.base import Segmented, SegmentedConfig
from streams.core.batch import Batch
from streams.core.schema import Schema
from streams.core.state_dict import State


class LwfConfig(SegmentedConfig):
    """Settings of LwF.

    Attributes:
        weight: of the distillation loss.
        temperature: divides outputs before they are compared.
    """

    weight: float = Field(1.0, ge=0)
    temperature: PositiveFloat = 2.0


class Lwf(Segmented):
    """Learn new events, and keep the outputs that the network had for them before the task.

        loss = CE(new events) + weight * CE(softmax(t(x) / T), softmax(out(x) / T))

    t is the teacher: the network at the end of the last task. The second term compares the outputs
    of the classes that had been learned by then. Before the first boundary there is no teacher, and
    this is fine-tuning. No events are stored.

    The paper has one head per task, first trains a new head alone, and takes several passes over a
    task. Here is one head over all classes (as LwF.MC in Rebuffi et al. 2017, "iCaRL"), and one
    pass over the stream.
    """

    kind = "lwf"
    Config = LwfConfig
    handles = frozenset({"classification"})

    def __init__(self, config: LwfConfig, schema: Schema, seed: int, device: str = "cpu") -> None:
        super().__init__(config, schema, seed, device)
        self.weight, self.temperature = config.weight, config.temperature
        self._learned = np.empty(0, np.int64)  # codes of the classes so far
        self._teacher: models.Net | None = None
        self._known = torch.empty(
            0, dtype=torch.int64
        )  # codes of the classes that the teacher learned

    def consolidate(self) -> None:
        self._teacher = copy.deepcopy(self.net).eval().requires_grad_(False)
        self._known = torch.from_numpy(self._learned).to(self.device)

    def learn_part(self, part: Batch) -> None:
        assert part.y is not None
        x, y = self.tensor(self.inputs.rows(part)), self.labels(part.y)
        target = self._teacher_probabilities(x)
        for _ in range(self.config.steps):
            out = self.forward(x)
            loss = self.error(out, y)
            if target is not None:
                known = out[:, self._known] / self.temperature
                loss = loss + self.weight * F.cross_entropy(known, target)
            self.optimizer.step(loss)
        self._learned = np.union1d(self._learned, part.y)

    def _teacher_probabilities(self, x: Tensor) -> Tensor | None:
        """Return (n, known classes) of the teacher at the temperature, or None without one."""
        if self._teacher is None:
            return None
        inputs = x
        if x.ndim == 2 and self.inputs.marked:  # the teacher may be of before a column was marked
            inputs = x[:, : models.first_layer(self._teacher).in_features]
        with torch.no_grad():
            out: Tensor = self._teacher(inputs)
        return torch.softmax(out[:, self._known] / self.temperature, 1)

    def state(self) -> State:
        teacher: State = {}
        if self._teacher is not None:
            net = models.module_state(self._teacher)
            teacher = {"net": net, "known": models.array_of(self._known)}
            if self.inputs.marked:
                teacher["inputs"] = models.first_layer(self._teacher).in_features
        return {**super().state(), "learned": self._learned, "teacher": teacher}

    def load(self, state: State) -> None:
        super().load(state)
        self._learned = np.array(state["learned"], np.int64)
        self._teacher = None
        if saved := state["teacher"]:
            teacher = copy.deepcopy(self.net)
            models.grow(teacher, len(saved["net"]["head.bias"]), drawn=False)
            if self.inputs.marked:
                models.grow_inputs(teacher, saved["inputs"])
            models.load_module(teacher, saved["net"])
            self._teacher = teacher.eval().requires_grad_(False)
            self._known = torch.from_numpy(np.array(saved["known"], np.int64)).to(self.device)
