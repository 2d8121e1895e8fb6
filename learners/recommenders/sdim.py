"""SDIM: a long history weighed by its likeness to a candidate, without attention over all of it
(Cao et al. 2022, "Sampling Is All You Need on Modeling Long-Term User Behaviors for CTR
Prediction")."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor

from buffers.errors.sim_hash import SimHash
from streams.core.settings import Settings


class SdimConfig(Settings):
    """Settings of the hashes that stand for attention.

    Attributes:
        signatures: how many hashes, m / tau in the paper.
        bits: of each hash, tau: more of them weigh what is most alike.
    """

    signatures: PositiveInt = Field(16, le=256)
    bits: PositiveInt = Field(3, le=16)


class Sdim:
    """The interest of a user in a candidate q, from a history s_1 .. s_L of embeddings:

        interest = mean over signatures h of l2norm(sum of the s_j with h(s_j) = h(q)).

    A SimHash of tau bits collides with the probability (1 - arccos(cos(q, s)) / pi)^tau. So the sum
    is, in the mean over hashes, an attention with these weights (``collision_rate``), to which it
    converges as the number of signatures grows. The cost is that of hashing, not of products of
    each candidate with each s_j. Gradients go to the s_j, and none through a hash.

    Deviation: embeddings are hashed when they are read, not stored with their hashes: they move
    with each step.

    Args:
        dimension: of an embedding.
        config: settings.
    """

    def __init__(self, dimension: int, config: SdimConfig) -> None:
        self._hash = SimHash(dimension, config.bits, config.signatures)

    def collisions(self, candidate: Tensor, history: Tensor, known: Tensor) -> Tensor:
        """Return whether each of a history collides with the candidate, by signature: (n, L,
        signatures) bool.

        Args:
            candidate: (n, dimension).
            history: (n, L, dimension).
            known: (n, L), whether there is a value.
        """
        n, length, dimension = history.shape
        own = self._hashes(candidate)[:, None]
        theirs = self._hashes(history.reshape(n * length, dimension)).reshape(n, length, -1)
        return torch.from_numpy(own == theirs).to(known.device) & known[:, :, None]

    def _hashes(self, vectors: Tensor) -> np.ndarray:
        return self._hash.hashes(vectors.detach().nan_to_num().cpu().numpy())

    def interest(self, candidate: Tensor, history: Tensor, known: Tensor) -> Tensor:
        """Return the interest (n, dimension); 0 where nothing collides."""
        hits = self.collisions(candidate, history, known).to(history.dtype)
        sums = torch.einsum("nls,nld->nsd", hits, history)
        return F.normalize(sums, dim=2).mean(1)
