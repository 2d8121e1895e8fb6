"""Attentive neural Hawkes process."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from learners.sequences.networks.base import (
    Cells,
    HistoryTensors,
    Intensities,
    LogLikelihood,
    Next,
    SequenceNet,
    log_mass,
    time_features,
)
from streams.core.settings import Settings

_LEAST = 1e-9
"""The least intensity of a type, events per unit: its logarithm stays finite."""


class AttentiveConfig(Settings):
    """Settings of an attentive neural Hawkes process.

    Attributes:
        hidden: width of the embedding of a type and of each layer of a head.
        heads: stacks of layers side by side.
        layers: of each stack.
        times: width of the embedding of time, a multiple of 4.
    """

    kind: Literal["attentive"] = "attentive"
    hidden: PositiveInt = 32
    heads: PositiveInt = 2
    layers: PositiveInt = 2
    times: PositiveInt = Field(16, multiple_of=4)


class Attended(NamedTuple):
    """Keys and values of each layer: what the future of n histories can attend to.

    Attributes:
        keys: (heads, n, before + length, hidden) of each layer, those of events last.
        values: as long as the keys.
        bias: (n, 1, before + length): 0, or minus infinity behind the last event.
        pull: a loss of what was chosen to attend to; None without one.
        chosen: the prompts that were chosen, (rows, top) for each pool; empty without pools.
        next_time: (n,) an estimate of when the next event comes; None without one.
    """

    keys: list[Tensor]
    values: list[Tensor]
    bias: Tensor
    pull: Tensor | None = None
    chosen: tuple[Tensor, ...] = ()
    next_time: Tensor | None = None


class Attentive(SequenceNet):
    """Attention to the events before, from any time (Yang, Mei and Eisner 2022, "Transformer
    Embeddings of Irregularly Spaced Events and Their Participants").

    With the embedding h_i = tanh(E[type]) of event i and z_i of its time, each layer of a head is

        h_i <- h_i + tanh( sum over j <= i of f_ij v_j / (1 + sum over j <= i of f_ij) ),
        f_ij = exp(q_i . k_j / sqrt(hidden)),   q, k, v linear in [h; z].

    The time t after the last event has such a state h(t) too, which attends to all events, and the
    intensity of type k is softplus(w_k . h(t) + b_k), with the states of all heads in h(t).

    The intensity is constant within cells: that of their middles. So its integral is exact, the
    density integrates to 1, and what is trained is what is served. Against the integral of the
    intensity at all times this is the midpoint rule.

    Deviations: z_i is of the time from the event to the last one, and of its gap, on the scale of
    the stream; h(t) has a projection of its own for queries and starts at a linear function of z,
    where both are shared, and 0, in the paper; only the next event after a history is learned, as
    each one comes.

    Args:
        config: settings.
        types: how many there are.
        seed: of the rows of types.
    """

    joint = True

    def __init__(self, config: AttentiveConfig, types: int, seed: int) -> None:
        super().__init__(types, seed)
        self.config = config
        heads, hidden, times = config.heads, config.hidden, config.times
        width = hidden + times
        self._add_types(hidden, 1 + heads * hidden)
        # The last layer has no queries of events: nothing attends to what they would give.
        outputs = [3 * hidden] * (config.layers - 1) + [2 * hidden]
        self.events = nn.ParameterList(_linear(heads, width, output) for output in outputs)
        self.queries = nn.ParameterList(_linear(heads, width, hidden) for _ in outputs)
        self.start = nn.Parameter(_linear(heads, times, hidden))

    def encode(self, histories: HistoryTensors) -> Attended:
        hidden, heads = self.config.hidden, self.config.heads
        half, present = self.config.times // 2, histories.present
        n, length = present.shape
        ages, gaps = time_features(histories.ages, half), time_features(histories.gaps, half)
        z = torch.cat([ages, gaps], -1).expand(heads, n, length, 2 * half)
        h = torch.tanh(self.embedding[histories.types]).expand(heads, n, length, hidden)
        bias = h.new_zeros(n, 1, length).masked_fill(~present[:, None], -math.inf)
        causal = h.new_full((length, length), -math.inf).triu(1)
        keys, values, notes = [], [], self.notes(histories)
        for layer, weight in enumerate(self.events):
            inputs = torch.cat([h, z], -1)
            parts = torch.split(apply(weight, inputs), hidden, -1)
            before = self.before(layer, inputs, present, notes)
            k, v = torch.cat([before[0], parts[0]], 2), torch.cat([before[1], parts[1]], 2)
            keys.append(k)
            values.append(v)
            if layer + 1 < self.config.layers:
                mask = F.pad(bias + causal, (k.shape[2] - length, 0))
                h = h + torch.tanh(_attended(parts[2], k, v, mask))
        bias = F.pad(bias, (keys[0].shape[2] - length, 0))
        return Attended(keys, values, bias, *notes.results())

    def notes(self, histories: HistoryTensors) -> Any:
        """Return what ``before`` notes while it encodes histories."""
        return _NoNotes()

    def before(
        self, layer: int, inputs: Tensor, present: Tensor, notes: Any
    ) -> tuple[Tensor, Tensor]:
        """Return keys and values (heads, n, m, hidden) before those of the events: 0 each for the
        1 in the denominator.

        Args:
            layer: its number.
            inputs: (heads, n, length, hidden + times) of the layer.
            present: (n, length) bool, where there is an event.
            notes: what ``notes`` returned.
        """
        zero = inputs.new_zeros(*inputs.shape[:2], 1, self.config.hidden)
        return zero, zero

    def intensity(self, encoded: Attended, elapsed: Tensor) -> Tensor:
        """Return (n, m, types) events of each type per unit at m times.

        Args:
            encoded: of n histories.
            elapsed: (m,) or (n, m) units after the last event.
        """
        heads, n = encoded.keys[0].shape[:2]
        z = time_features(elapsed, self.config.times)
        z = z.expand(heads, n, *z.shape[-2:])
        h = apply(self.start, z)
        for weight, k, v in zip(self.queries, encoded.keys, encoded.values, strict=True):
            query = apply(weight, torch.cat([h, z], -1))
            h = h + torch.tanh(_attended(query, k, v, encoded.bias))
        state = h.permute(1, 2, 0, 3).flatten(2)
        # Before anything is learned, one event per unit of any type.
        start = math.log(math.expm1(1 / max(self.count, 1)))
        out = F.linear(state, self.outputs[:, 1:], self.outputs[:, 0] + start)
        intensity: Tensor = F.softplus(out) + _LEAST
        return intensity

    def log_likelihood(self, encoded: Attended, event: Next, cells: Cells) -> LogLikelihood:
        intensity = self.intensity(encoded, cells.middles)  # (n, cells, types)
        total = intensity.sum(-1)
        cell = torch.searchsorted(cells.starts, event.elapsed.contiguous(), right=True) - 1
        inside = event.elapsed[:, None] - cells.starts
        until = (total * inside.clamp(min=0).minimum(cells.widths)).sum(1)
        rows = torch.arange(len(cell), device=cell.device)
        came, now = event.types >= 0, intensity[rows, cell]
        time = torch.where(came, log_mass(until, total[rows, cell] * event.step), -until)
        if not self.count:
            return LogLikelihood(time, torch.zeros_like(time))
        chosen = now.gather(1, event.types.clamp(min=0)[:, None])[:, 0]
        types = torch.where(came, torch.log(chosen / now.sum(1)), 0.0)
        return LogLikelihood(time, types)

    def intensities(self, encoded: Attended, cells: Cells) -> Intensities:
        intensity = self.intensity(encoded, cells.middles)
        total = intensity.sum(-1)
        return Intensities(total, intensity / total[..., None])


class _NoNotes:
    """Nothing is noted."""

    def results(self) -> tuple[Any, ...]:
        return ()


def _linear(heads: int, inputs: int, outputs: int) -> Tensor:
    """Return weights (heads, inputs + 1, outputs) as ``nn.Linear`` draws them; the bias last."""
    weight = torch.empty(heads, inputs + 1, outputs)
    return weight.uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs))


def _attended(query: Tensor, keys: Tensor, values: Tensor, bias: Tensor) -> Tensor:
    """Return (heads, n, m, hidden) the values that queries (heads, n, m, hidden) attend to.

    This is ``scaled_dot_product_attention``, which takes longer for small matrices with a mask.
    """
    scores = (query / math.sqrt(query.shape[-1])) @ keys.transpose(-1, -2)
    return torch.softmax(scores + bias, -1) @ values


def apply(weight: Tensor, x: Tensor) -> Tensor:
    """Return (heads, n, m, outputs) of inputs (heads, n, m, inputs), each head by its weights
    (heads, inputs + 1, outputs)."""
    out = torch.baddbmm(weight[:, -1:], x.flatten(1, 2), weight[:, :-1])
    return out.view(*x.shape[:3], -1)
