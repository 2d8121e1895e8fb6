"""Experience replay (Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning")."""

from __future__ import annotations

import torch

from learners.rehearsal.base import Rehearsal
from streams.core.batch import Batch


class Replay(Rehearsal):
    """Take each gradient step on the newly revealed events and ``replay_size`` recalled ones."""

    kind = "replay"

    def learn(self, batch: Batch) -> None:
        """Take ``steps`` gradient steps, then offer the new events to the buffer."""
        new = self.examples(batch)
        for old in self.recall(new):
            x, y = new.x, new.y
            if old is not None:
                x, y = torch.cat([x, old.x]), torch.cat([y, old.y])
            out = self.descend(x, y)
            self.update_recall(old, out[len(new) :])
        self.remember(batch, new.columns)
