"""Avalanche imported where it is used, and randomness of its own for it."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from streams.core.errors import StreamError
from streams.integrations.avalanche_library import OwnRandom, import_avalanche


def test_missing_avalanche_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "avalanche", None)
    with pytest.raises(StreamError, match=r"pip install 'everlearn\[avalanche\]'"):
        import_avalanche.__wrapped__()


def test_torchvision_comes_along() -> None:
    import_avalanche()
    from torchvision import transforms

    assert transforms.ToTensor()(Image.new("L", (2, 2), 255)).tolist() == [[[1, 1], [1, 1]]]


def test_avalanche_is_imported_lazily() -> None:
    code = "import sys, streams.integrations.avalanche, learners.integrations.avalanche;"
    code += "import learners.integrations.avalanche_strategy;"
    code += "print('avalanche' in sys.modules, 'torchvision' in sys.modules)"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True)
    assert done.stdout.decode().strip() == "False False"


def draws() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(1))]  # noqa: NPY002


def test_own_random_draws_from_its_seed_alone() -> None:
    own, same, other = OwnRandom(3), OwnRandom(3), OwnRandom(4)
    before = random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())  # noqa: NPY002
    with own.within():
        first = draws()
    with same.within():
        assert draws() == first
    with own.within():
        second = draws()
    with other.within():
        assert not set(draws()) & {*first, *second}
    assert first != second
    same.state = own.state
    with own.within():
        third = draws()
    with same.within():
        assert draws() == third
    after = random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())  # noqa: NPY002
    assert after == before
