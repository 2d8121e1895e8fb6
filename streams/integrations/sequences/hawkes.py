"""A generator of multivariate Hawkes processes whose parameters drift, with their likelihood."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from streams.core.batch import Array, Floats, Ints
from streams.core.stream_config import SequenceConfig
from streams.integrations.sequences.stream import (
    EventTable,
    SequenceStream,
    SequenceStreamConfig,
)


@dataclass(frozen=True, slots=True, eq=False)
class HawkesProcess:
    """A Hawkes process of k types with exponential kernels (Hawkes 1971, "Spectra of some
    self-exciting and mutually exciting point processes"), whose parameters change at given times.

    In period p, after events at t_j of types k_j,

        lambda_k(t) = mu[p, k] + sum_j alpha[p, k, k_j] b exp(-b (t - t_j)).

    Attributes:
        mu: (periods, k) events per second.
        alpha: (periods, k, k) events that one event of the second type causes, of the first type.
        b: decay per second.
        ends: (periods,) the times at which periods end, seconds; the last is infinite.
    """

    mu: Floats
    alpha: Floats
    b: float
    ends: Floats

    def simulate(self, until: float, rng: np.random.Generator) -> tuple[Floats, Ints]:
        """Return times and types of the events of one realisation up to a time.

        Thinning (Ogata 1981, "On Lewis' simulation method for point processes"): between events the
        intensity falls within a period, so its value now is a bound.
        """
        times: list[float] = []
        kinds: list[int] = []
        now, period, excited = 0.0, 0, np.zeros(self.mu.shape[1])
        while now < until:
            rate = self.mu[period] + self.b * (self.alpha[period] @ excited)
            bound = float(rate.sum())
            step = rng.exponential(1 / bound)
            if now + step >= self.ends[period]:
                excited *= np.exp(-self.b * (self.ends[period] - now))
                now, period = float(self.ends[period]), period + 1
                continue
            now += step
            excited *= np.exp(-self.b * step)
            rate = self.mu[period] + self.b * (self.alpha[period] @ excited)
            chosen = int(np.searchsorted(np.cumsum(rate), rng.uniform(0, bound)))
            if chosen < len(rate) and now < until:
                times.append(now)
                kinds.append(chosen)
                excited[chosen] += 1
        return np.array(times), np.array(kinds, np.int64)

    def scores(self, time: Floats, kind: Ints) -> tuple[Floats, Floats]:
        """Return what each of n events of one realisation tells of the next: (n,) nats for its time
        and for its type, under the process itself; NaN for the last.

        In closed form: the integral of an exponential kernel over each part of a period.
        """
        n, k = len(time), self.mu.shape[1]
        of_time, of_type = np.full(n, np.nan), np.full(n, np.nan)
        excited = np.zeros(k)
        for i in range(n - 1):
            if i:
                excited *= np.exp(-self.b * (time[i] - time[i - 1]))
            excited[kind[i]] += 1
            total, now, past = 0.0, time[i], excited.copy()
            period = int(np.searchsorted(self.ends, now, side="right"))
            while True:
                stop = min(float(self.ends[period]), float(time[i + 1]))
                fall = np.exp(-self.b * (stop - now))
                total += float(self.mu[period].sum()) * (stop - now)
                total += float((self.alpha[period] @ past).sum()) * (1 - fall)
                past *= fall
                now = stop
                if time[i + 1] < self.ends[period]:
                    break
                period += 1
            rate = self.mu[period] + self.b * (self.alpha[period] @ past)
            of_time[i] = total - np.log(rate.sum())
            of_type[i] = -np.log(rate[kind[i + 1]] / rate.sum())
        return of_time, of_type


class HawkesStreamConfig(SequenceStreamConfig):
    """Settings of the generator.

    Attributes:
        events: of the stream, about.
        users: with a process each; they share the parameters.
        types: of events.
        gap: seconds from one event of a user to the next, on average.
        branching: events that an event causes, on average.
        concepts: parameter sets; slice i of the time has set i modulo this.
        seed: of all random choices.
    """

    sequence: SequenceConfig | None = SequenceConfig(by="user", keys=16_384)
    events: PositiveInt = 24_000
    users: PositiveInt = 200
    types: PositiveInt = Field(5, ge=2, le=256)
    gap: PositiveFloat = 100.0
    branching: float = Field(0.6, ge=0, lt=1)
    concepts: PositiveInt = 8
    seed: int = Field(0, ge=0, lt=2**63)


class HawkesStream(SequenceStream):
    """Users with Hawkes processes, in the order of time. In each slice of the time an event makes
    events of one certain other type likely; which one, and how often types come unprompted, is
    another in each parameter set. A fifth of as many users again are for testing.

    Attributes:
        process: the process of every user.
    """

    kind = "hawkes"
    Config = HawkesStreamConfig
    config: HawkesStreamConfig

    def _load(self) -> None:
        config = self.config
        assert isinstance(config, HawkesStreamConfig)
        rng = np.random.default_rng(config.seed)
        self.types = tuple(map(str, range(config.types)))
        until = config.events / config.users * config.gap
        self.process = drifting(config, until, rng)
        self.events = self._simulated(0, config.users, until, rng)
        self.test = self._simulated(config.users, max(config.users // 5, 1), until, rng)

    def _simulated(
        self, first: int, users: int, until: float, rng: np.random.Generator
    ) -> EventTable:
        """Return the events of users, whose numbers begin with ``first``."""
        parts = [self.process.simulate(until, rng) for _ in range(users)]
        user = np.repeat(np.arange(first, first + users), [len(time) for time, _ in parts])
        time, kind = (np.concatenate(column) for column in zip(*parts, strict=True))
        return EventTable.sorted_by_time(time, user, kind)

    def true_scores(self, events: EventTable) -> tuple[Floats, Floats]:
        """Return the nats of the next event of the user of each of n events, for its time and its
        type, under the process that made them; NaN for the last event of a user."""
        of_time, of_type = np.full(len(events), np.nan), np.full(len(events), np.nan)
        for user in np.unique(events.user):
            rows = np.flatnonzero(events.user == user)
            of_time[rows], of_type[rows] = self.process.scores(events.time[rows], events.kind[rows])
        return of_time, of_type


def drifting(config: HawkesStreamConfig, until: float, rng: np.random.Generator) -> HawkesProcess:
    """Return a process with the parameter sets of these settings, in slices of equal time."""
    k, sets = config.types, config.concepts
    rate = (1 - config.branching) / config.gap
    mu = rate * rng.dirichlet(np.full(k, 2.0), sets)
    alpha = np.stack([_excitation(k, config.branching, rng) for _ in range(sets)])
    order = np.arange(config.slices) % sets
    ends = until / config.slices * np.arange(1, config.slices + 1)
    ends[-1] = np.inf
    return HawkesProcess(mu[order], alpha[order], 5.0 / config.gap, ends)


def _excitation(k: int, branching: float, rng: np.random.Generator) -> Array:
    """Return a matrix (k, k) in which most of what a type causes is of one type, by a random
    permutation."""
    matrix = np.full((k, k), 0.2 / k)
    matrix[rng.permutation(k), np.arange(k)] += 0.8
    return branching * matrix
