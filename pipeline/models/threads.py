"""The number of threads of linear algebra, on which the last bits of results depend."""

from __future__ import annotations

import sys

from threadpoolctl import threadpool_limits


def set_threads(number: int) -> None:
    """Let torch, and the linear algebra of numpy and scipy, use this many threads from now on.

    Sums of products are cut by the number of threads, and so are their rounding errors. Libraries
    that are imported later keep their own number: call it once a job is loaded, which imports the
    classes of its learner and encoders. Torch is not imported for jobs that do without it.
    """
    threadpool_limits(number)
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(number)
