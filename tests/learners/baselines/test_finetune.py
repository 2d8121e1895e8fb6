from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError

from learners.baselines.finetune import Finetune
from learners.baselines.linear_probe import LinearProbe
from learners.networks.modules import Mlp
from streams.core.batch import Batch
from streams.core.schema import Feature, Schema
from streams.operators.label_join import Revealed

torch.set_num_threads(1)


def test_finetune_steps_on_new_events_alone() -> None:
    config = {
        "kind": "finetune",
        "model": {"kind": "mlp", "hidden": []},
        "optimizer": {"kind": "sgd", "lr": 0.1},
        "steps": 3,
        "scale": False,
    }
    schema = Schema((Feature("a", "numeric"), Feature("b", "numeric")), "classification", (0, 1))
    learner = Finetune(Finetune.Config.model_validate(config), schema, 4)
    rng = np.random.default_rng(1)
    x, i = rng.normal(size=(40, 2)), np.arange(40)
    events = Batch(i, i * 1.0, x, i.astype(np.int32), i, (x[:, 0] > 0).astype(np.int64))

    torch.manual_seed(4)
    head = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, fused=True)
    for batch in events.micro_batches(8):
        learner.step(replace(batch, y=None), Revealed(batch, np.arange(8)))
        for _ in range(3):
            optimizer.zero_grad()
            given = torch.from_numpy(np.asarray(batch.x, np.float32))
            F.cross_entropy(head(given), torch.from_numpy(batch.y)).backward()
            optimizer.step()
    assert torch.equal(learner.net.head.weight, head.weight)
    assert torch.equal(learner.net.head.bias, head.bias)
    assert learner.version == 5


def test_linear_probe_is_linear() -> None:
    probe = LinearProbe.Config.model_validate({"kind": "linear-probe"})
    assert probe.model == Mlp(kind="mlp", hidden=())
    for model in ({"kind": "mlp", "hidden": [8]}, {"kind": "conv"}):
        with pytest.raises(ValidationError, match="no hidden layers"):
            LinearProbe.Config.model_validate({"kind": "linear-probe", "model": model})
