"""A job and the modules that it names, on their way to a process that has never seen them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.runners.ray import job_package as ship
from pipeline.runners.ray.job_package import JobPackage
from pipeline.training.builder import build

ROOT = Path(__file__).parents[4]
LEARNER = "from learners.rehearsal.replay import Replay\n\n\nclass Mine(Replay):\n    pass\n"
UNPACK = """
import pickle, sys
from pathlib import Path
from pipeline.training.builder import build
loaded = pickle.loads(Path(sys.argv[1]).read_bytes()).unpack()
build(loaded)
for name in sys.argv[2:]:
    exec(name)
"""


@pytest.fixture
def home(write_job: Callable[..., Path], tmp_path: Path) -> Iterator[Path]:
    """The folder of a job whose learner is ``mine:Mine`` (to be written); what is imported from it
    is forgotten after the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    job = yaml.safe_load(write_job().read_text())
    job["learner"]["kind"] = "mine:Mine"
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    before, path = set(sys.modules), list(sys.path)
    yield folder
    sys.path[:] = path
    for name in set(sys.modules) - before:
        if name.startswith("mine"):
            del sys.modules[name]


def sent(home: Path, *checks: str) -> str:
    """Packs the job, takes its folder away, and unpacks it in another process, which then runs the
    checks; what went wrong there."""
    loaded = jobs.load(home / "job.yaml")
    build(loaded)
    parcel = home.parent / "parcel"
    parcel.write_bytes(pickle.dumps(JobPackage.of(loaded)))
    home.rename(home.parent / "away")
    done = subprocess.run(
        [sys.executable, "-c", UNPACK, parcel, *checks],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stderr


def test_package_module_keeps_its_file_and_lines(home: Path) -> None:
    source = f"{LEARNER}\nHERE = __file__\n\n\ndef fails():\n    raise ValueError('é')\n"
    (home / "mine.py").write_text(source, encoding="latin-1")
    (home / "mine.py").write_bytes(b"# coding: latin-1\n" + source.encode("latin-1"))
    printed = sent(
        home, f"import mine; assert mine.HERE == {str(home / 'mine.py')!r}", "mine.fails()"
    )
    assert "ValueError: é" in printed
    assert f'File "{home / "mine.py"}", line 12, in fails' in printed


@pytest.mark.parametrize("namespace", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_package_holds_whole_packages_and_late_imports(home: Path, namespace: bool) -> None:
    job = (home / "job.yaml").read_text().replace("mine:Mine", "mine.learner:Mine")
    (home / "job.yaml").write_text(job)
    (home / "mine" / "deep").mkdir(parents=True)
    if not namespace:
        (home / "mine" / "__init__.py").write_text("WHOLE = True\n")
        (home / "mine" / "deep" / "__init__.py").write_text("from . import late\n")
    (home / "mine" / "names.py").write_text("KIND = 'mine'\n")
    (home / "mine" / "deep" / "late.py").write_text("from ..names import KIND\n")
    (home / "mine" / "broken.py").write_text("print 'of another age'\n")
    (home / "mine" / "strange.py").write_bytes(b"# \xff\n")
    (home / "mine" / "learner.py").write_text(f"from .names import KIND\n{LEARNER}")
    later = "from mine.deep.late import KIND; assert KIND == 'mine'"
    whole = "import mine; assert getattr(mine, 'WHOLE', False) is " + str(not namespace)
    assert sent(home, later, whole) == ""


@pytest.mark.soak
def test_package_follows_a_linked_module(home: Path, tmp_path: Path) -> None:
    (tmp_path / "shared.py").write_text(LEARNER)
    (home / "mine.py").symlink_to(tmp_path / "shared.py")
    assert sent(home, "import os; os.remove", "import mine") == ""


@pytest.mark.soak
def test_package_holds_a_module_imported_later(home: Path) -> None:
    (home / "mine.py").write_text(f"{LEARNER}\n\ndef later():\n    import mine_too\n")
    (home / "mine_too.py").write_text("import mine_three\n")
    (home / "mine_three.py").touch()
    (home / "mine_never.py").write_text("raise SystemExit\n")
    assert sent(home, "import mine; mine.later()") == ""


def test_package_does_not_shadow_installed_modules(home: Path) -> None:
    (home / "mine.py").write_text(f"import json\n{LEARNER}")
    (home / "json.py").write_text("raise SystemExit\n")
    assert sent(home, "import json; json.dumps({})") == ""


class Lazy(ModuleType):
    """A module that loads itself as soon as anything is asked of it, and cannot."""

    def __getattribute__(self, name: str) -> Any:
        raise KeyError(name)


def test_package_does_not_look_into_other_modules(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "mine.py").write_text(LEARNER)
    monkeypatch.setitem(sys.modules, "lazy", Lazy("lazy"))
    monkeypatch.setitem(sys.modules, "lazy.below", Lazy("lazy.below"))
    assert sent(home, "import mine") == ""


def test_package_holds_only_the_users_modules(
    write_job: Callable[..., Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = jobs.load(write_job())
    build(plain)
    assert JobPackage.of(plain).modules == {}
    (home / "mine.py").write_text(LEARNER)
    (home / "other.py").write_text("\n")
    loaded = jobs.load(home / "job.yaml")
    build(loaded)
    assert set(JobPackage.of(loaded).modules) == {"mine.py"}
    monkeypatch.setattr(ship, "MAX_BYTES", 10)
    with pytest.raises(JobError, match="more than 10 bytes of modules to ship"):
        JobPackage.of(loaded)
