import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import learners
import streams
from learners import KINDS
from learners.base import Learner
from learners.registry import UnknownKindError, find, load_object
from learners.rehearsal.der_plus_plus import DerPlusPlus
from learners.rehearsal.replay import Replay
from streams.core.stream import Stream


def test_find_by_kind_and_by_import_path() -> None:
    assert find(KINDS, Learner, "replay") is Replay
    assert find(KINDS, Learner, "no-change").kind == "no-change"
    assert find(KINDS, Learner, "der++") is DerPlusPlus
    assert find(KINDS, Learner, "learners.rehearsal.replay:Replay") is Replay


@pytest.mark.parametrize(
    ("package", "kinds", "base"),
    [(learners, learners.KINDS, Learner), (streams, streams.KINDS, Stream)],
    ids=["learners", "streams"],
)
def test_kinds_names_every_class_with_a_kind(
    package: ModuleType, kinds: dict[str, str], base: type[Any]
) -> None:
    defined = {}
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        for cls in vars(importlib.import_module(info.name)).values():
            ours = inspect.isclass(cls) and cls.__module__ == info.name
            if ours and issubclass(cls, base) and "kind" in vars(cls):
                defined[cls.kind] = f"{info.name}:{cls.__name__}"
    defined.pop("test", None)  # of streams.testing: named by import path only
    assert defined == kinds
    for kind in kinds:
        assert find(kinds, base, kind).kind == kind


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("replya", "did you mean 'replay'"),
        ("network", "There are: "),  # a module, but no learner in it
        ("learner", "There are: "),
        ("no_change", "did you mean 'no-change'"),
        ("der_plus_plus", "There are: "),
        ("", "There are: "),
        ("../x", "There are: "),
        ("nowhere:Thing", "no module named 'nowhere'"),
        ("learners.rehearsal.replay:Repaly", "did you mean 'Replay'"),
        ("learners.rehearsal.buffer_config:BufferConfig", "is not a subclass"),
        ("learners.rehearsal.replay:", "not an import path"),
        (":Replay", "not an import path"),
        (".a:b", "'.a' cannot be imported"),
        ("learners.networks.base:NetworkLearner", "is abstract: it does not define learn"),
    ],
)
def test_find_unknown_kind_raises_with_nearest(kind: str, says: str) -> None:
    with pytest.raises(UnknownKindError, match=says) as error:
        find(KINDS, Learner, kind)
    assert "\n" not in str(error.value)


def test_load_object_missing_dependency_raises_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine_too.py").write_text("import mine\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownKindError, match=r"'mine_too' cannot be imported: .*'mine'"):
        load_object("mine_too:Thing")
    sys.modules.pop("mine_too", None)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def\n", "SyntaxError: "),
        ("from json import nothing\n", "ImportError: cannot import name"),
        ("raise RuntimeError('first\\nsecond \\x1b[31mred\\x1b[0m')\n", "first second red$"),
        ("import sys; sys.exit(3)\n", "SystemExit: 3"),
        ("def __getattr__(name): raise ValueError(name)\n", "'broken_one' has no 'Thing'"),
    ],
)
def test_load_object_broken_module_raises_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    (tmp_path / "broken_one.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UnknownKindError, match=says) as error:
        find(KINDS, Learner, "broken_one:Thing")
    assert "broken_one" in str(error.value)
    assert str(error.value).isprintable()
    sys.modules.pop("broken_one", None)


def test_load_object_finds_nested_names() -> None:
    assert load_object("learners.rehearsal.replay:Replay.Config") is Replay.Config


@pytest.mark.parametrize(
    "package",
    [
        "learners",
        "learners.baselines",
        "learners.integrations",
        "learners.networks",
        "learners.regularization",
        "learners.rehearsal",
    ],
)
def test_package_exports_exist(package: str) -> None:
    module = importlib.import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        module.Nothing  # noqa: B018


def test_import_learners_loads_no_heavy_library() -> None:
    code = (
        "import sys, learners, learners.baselines, learners.integrations\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'river', 'avalanche'}\n"
        "assert not heavy & sys.modules.keys()\n"
        "learners.baselines.Prior, learners.integrations.RiverLearner\n"
        "assert not {'torch', 'avalanche'} & sys.modules.keys()\n"
        # Nor does a command, or a run, before it knows the learner and the encoders of its job.
        "import pipeline.cli.app, pipeline.runners.local, pipeline.training.run\n"
        "assert not {'torch', 'sklearn', 'river', 'mlflow'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
