"""Words and sizes: what the code and the docs must not say, and what they must not grow to.

Each rule names every place that breaks it, so that a failure is a list of things to mend.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("streams", "buffers", "learners", "pipeline")

PHRASES = (
    "so many",
    "is told",
    "are told",
    "hangs on",
    "hang on",
    "no word of",
    "comes to terms",
    "come to terms",
    "whoever",
    "stands in its place",
)
_PHRASES = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b", re.IGNORECASE)

PARTICIPLES = """
    answered answering asked asking assigned begun checkpointing chosen closing come dead
    done fetched finished found given gone held injected kept known left listed listening
    looking made outgoing painted picked posted refused remembered said seen served
    settled speaking standing starting taken tested told tracked tracking tried waiting
    wanted watched written
"""
"""Participles that have named classes here; a noun such as ``String`` may end in ``ing``."""

NOUNS = {"OnceSeen"}
"""Names that a participle may end: ``once_seen`` is a key of a job."""

NO_ENTRIES = {"__init__.py", "__main__.py", "__pycache__", "py.typed"}

TEST_NAME = 60
FUNCTION = 50
ENTRIES = 14
"""Characters of a test's name, lines of a function without its docstring, entries of a folder."""


@cache
def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def _sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def _classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for file in _sources(*PACKAGES):
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.ClassDef):
                yield file, node


def _functions(*folders: str) -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in _sources(*folders):
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file, node


def _at(file: Path, line: int, text: str) -> str:
    return f"{file.relative_to(ROOT)}:{line}: {text}"


def phrases_in_code() -> Iterator[str]:
    """Every string of the packages: docstrings, messages and help texts."""
    for file in (*_sources(*PACKAGES), ROOT / "everlearn.py"):
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                # A docstring breaks its lines anywhere.
                for match in _PHRASES.finditer(" ".join(node.value.split())):
                    yield _at(file, node.lineno, match.group())


def phrases_in_docs() -> Iterator[str]:
    """The pages of the documentation, the README and the other pages at the root."""
    for file in (*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))):
        text = re.sub(r"\s", " ", file.read_text())  # as long as before: positions stay
        for match in _PHRASES.finditer(text):
            line = file.read_text().count("\n", 0, match.start()) + 1
            yield _at(file, line, match.group())


def classes_named_by_a_participle() -> Iterator[str]:
    for file, node in _classes():
        last = re.findall(r"[A-Z][a-z]*|[a-z]+", node.name)[-1].lower()
        if last in PARTICIPLES.split() and node.name not in NOUNS:
            yield _at(file, node.lineno, node.name)


def exceptions_without_error() -> Iterator[str]:
    """Classes that inherit, through classes of ours, from an exception."""
    exceptions = {"BaseException", "Exception"}
    while True:
        new = [
            (file, node)
            for file, node in _classes()
            if node.name not in exceptions
            and any(b in exceptions or b.endswith("Error") for b in map(_base, node.bases))
        ]
        if not new:
            return
        exceptions |= {node.name for _, node in new}
        for file, node in new:
            if not node.name.endswith("Error"):
                yield _at(file, node.lineno, node.name)


def _base(node: ast.expr) -> str:
    """The last name of a base class, ``b`` of ``a.b``."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def classes_of_one_name() -> Iterator[str]:
    """Classes of modules, and not those inside a function or another class."""
    places = defaultdict(list)
    for file in _sources(*PACKAGES):
        for node in _tree(file).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(_at(file, node.lineno, node.name))
    for same in places.values():
        if len(same) > 1:
            yield "; ".join(same)


def long_test_names() -> Iterator[str]:
    for file, node in _functions("tests"):
        if node.name.startswith("test_") and len(node.name) > TEST_NAME:
            yield _at(file, node.lineno, f"{node.name} ({len(node.name)})")


def long_functions() -> Iterator[str]:
    for file, node in _functions(*PACKAGES):
        length = (node.end_lineno or node.lineno) - node.lineno + 1
        if ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            length -= (docstring.end_lineno or docstring.lineno) - docstring.lineno + 1
        if length > FUNCTION:
            yield _at(file, node.lineno, f"{node.name} ({length})")


def crowded_folders() -> Iterator[str]:
    for package in PACKAGES:
        for folder in (ROOT / package, *(ROOT / package).rglob("*")):
            if not folder.is_dir() or folder.name == "__pycache__":
                continue
            entries = [path for path in folder.iterdir() if path.name not in NO_ENTRIES]
            if len(entries) > ENTRIES:
                yield f"{folder.relative_to(ROOT)}: {len(entries)} entries"


RULES = (
    phrases_in_code,
    phrases_in_docs,
    classes_named_by_a_participle,
    exceptions_without_error,
    classes_of_one_name,
    long_test_names,
    long_functions,
    crowded_folders,
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_place_breaks_the_rule(rule: Callable[[], Iterator[str]]) -> None:
    broken = list(rule())
    assert not broken, "\n".join(["", *broken])


BAD_MODULE = '''
class Refused(Exception):
    """Whoever asks
    is told so many times."""


class Broken(Refused): ...


class WordTold: ...


def long():
    """Not counted."""
'''


def test_each_rule_finds_what_breaks_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that can find nothing would pass for ever."""
    _write_bad_tree(tmp_path)
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    broken = {rule.__name__: list(rule()) for rule in RULES}
    assert broken == {
        "phrases_in_code": [
            "streams/bad.py:3: Whoever",
            "streams/bad.py:3: is told",
            "streams/bad.py:3: so many",
        ],
        "phrases_in_docs": ["docs/page.md:2: Hangs on", "README.md:1: no word of"],
        "classes_named_by_a_participle": [
            "streams/bad.py:2: Refused",
            "streams/bad.py:10: WordTold",
        ],
        "exceptions_without_error": ["streams/bad.py:2: Refused", "streams/bad.py:7: Broken"],
        "classes_of_one_name": ["streams/bad.py:7: Broken; learners/same.py:1: Broken"],
        "long_test_names": [f"tests/test_bad.py:1: {'test_'.ljust(61, 'x')} (61)"],
        "long_functions": ["streams/bad.py:13: long (51)"],
        "crowded_folders": ["buffers: 15 entries"],
    }


def _write_bad_tree(root: Path) -> None:
    """A repository in which each rule is broken, at its limit."""
    for folder in (*PACKAGES, "docs", "tests"):
        (root / folder).mkdir()
    (root / "everlearn.py").write_text("")
    (root / "streams" / "bad.py").write_text(BAD_MODULE + "    x = 1\n" * (FUNCTION))
    (root / "learners" / "same.py").write_text("class Broken: ...\n")
    (root / "README.md").write_text("# There is no\nword of it\n")
    (root / "docs" / "page.md").write_text("Text.\nHangs\non it.\n")
    names = ("test_".ljust(TEST_NAME + 1, "x"), "test_".ljust(TEST_NAME, "y"))
    (root / "tests" / "test_bad.py").write_text("".join(f"def {name}(): ...\n" for name in names))
    for i in range(ENTRIES + 1):
        (root / "buffers" / f"module_{i}.py").write_text("")
