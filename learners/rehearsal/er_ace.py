"""ER-ACE, replay with asymmetric cross-entropy (Caccia et al. 2022, "New Insights on Reducing
Abrupt Representation Change in Online Continual Learning")."""

from __future__ import annotations

import torch

from learners.rehearsal.base import Rehearsal
from streams.core.batch import Batch


class ErAce(Rehearsal):
    """Replay in which new events do not push away classes that are absent from them.

        loss = CE(new events, over the classes of the micro-batch)
             + CE(recalled events, over all classes)

    Each term is a mean over its own events, and both are added as in the paper. Together they are
    about twice the loss of replay, which is one mean over all events.

    The authors' program leaves out classes only from the second task on. Here are no tasks, so it
    is done from the first event on: new events of a micro-batch with a single class have no loss.
    The candidates of "maximal-interference" are scored after a step on the cross-entropy over all
    classes.
    """

    kind = "er-ace"
    handles = frozenset({"classification"})

    def learn(self, batch: Batch) -> None:
        """Take ``steps`` gradient steps, then offer the new events to the buffer."""
        new = self.examples(batch)
        present, among = torch.unique(new.y, return_inverse=True)
        for old in self.recall(new):
            x = new.x if old is None else torch.cat([new.x, old.x])
            out = self.forward(x)
            loss = self.error(out[: len(new), present], among, codes=present)
            if old is not None:
                loss = loss + self.error(out[len(new) :], old.y)
            self.optimizer.step(loss)
            self.update_recall(old, out[len(new) :])
        self.remember(batch, new.columns)
