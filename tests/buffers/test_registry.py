"""The tables of rules, and how a rule is found by name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import buffers
from buffers.admission.base import Admission
from buffers.admission.ring import Ring
from buffers.recall.base import Recall, Uniform
from buffers.registry import ADMISSIONS, RECALLS, find_admission, find_recall


@pytest.mark.parametrize(
    ("base", "rules", "find"),
    [(Admission, ADMISSIONS, find_admission), (Recall, RECALLS, find_recall)],
    ids=["admission", "recall"],
)
def test_tables_name_every_rule(
    base: type[Any], rules: dict[str, str], find: Callable[[str], type[Any]]
) -> None:
    defined = {}
    for info in pkgutil.walk_packages(buffers.__path__, "buffers."):
        for cls in vars(importlib.import_module(info.name)).values():
            ours = inspect.isclass(cls) and cls.__module__ == info.name
            if ours and issubclass(cls, base) and "name" in vars(cls):
                defined[cls.name] = f"{info.name}:{cls.__name__}"
    assert defined == rules
    assert [find(name).name for name in rules] == list(rules)


def test_rules_are_found_by_name() -> None:
    assert find_admission("ring") is Ring
    assert find_recall("uniform") is Uniform


def test_unknown_name_raises_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown admission 'rinng': did you mean 'ring'\?"):
        find_admission("rinng")
    with pytest.raises(ValueError, match=r"unknown recall 'power': did you mean 'power-law'\?"):
        find_recall("power")


def test_package_exports_exist_and_need_no_torch() -> None:
    assert all(getattr(buffers, name) is not None for name in buffers.__all__)
    code = "import sys, buffers; assert not {'torch', 'pydantic', 'pyarrow'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True)
