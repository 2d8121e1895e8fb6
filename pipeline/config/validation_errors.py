"""Validation errors in the words of a job file: the path in it, what is expected, what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from pipeline.config.yaml_file import shown
from streams.core.errors import one_line
from streams.core.settings import unknown

_EXPECTED = {
    "int_parsing": "an integer",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of at least {ge}",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of at most {le}",
    "multiple_of": "a multiple of {multiple_of}",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "string_type": "a string",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "literal_error": "{expected}",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
"""What a value must be, by pydantic's type of the error; filled in with the error's context."""


class _Problem(NamedTuple):
    """One error of a job.

    Attributes:
        path: keys and list indices from the top of the job.
        text: what is wrong, for an error that says it all.
        expected: what is expected there, for an error of one value; else empty.
        value: the value there, as it is shown.
        optional: whether it is of one branch of a union, where another branch may have got further.
    """

    path: tuple[str, ...]
    text: str
    expected: str = ""
    value: str = ""
    optional: bool = False


def describe_errors(
    error: ValidationError, file: Path, data: Any, prefix: tuple[str, ...]
) -> list[str]:
    """Return a line for each problem of a job, ``FILE: path.in.it: expected X, got Y``.

    Args:
        error: raised by pydantic.
        file: named at the start of each line.
        data: what was validated.
        prefix: path of ``data`` in the job.
    """
    problems = [_problem(details, data, prefix) for details in error.errors()]
    paths = {problem.path for problem in problems}
    said = {problem.path for problem in problems if not problem.expected}
    expected: dict[tuple[str, ...], list[str]] = {}
    lines: dict[object, str] = {}
    for i, problem in enumerate(problems):
        further = problem.path in said or any(_is_inside(path, problem.path) for path in paths)
        if problem.optional and further:
            continue
        place = f"{file}: {one_line('.'.join(problem.path))}" if problem.path else f"{file}"
        if not problem.expected:
            lines[i] = f"{place}: {problem.text}"
            continue
        # The branches of a union each report what they expect of the same value.
        several = expected.setdefault(problem.path, [])
        if problem.expected not in several:
            several.append(problem.expected)
        lines[problem.path] = f"{place}: expected {' or '.join(several)}, got {problem.value}"
    return list(lines.values())


def _is_inside(path: tuple[str, ...], outer: tuple[str, ...]) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _problem(details: Any, data: Any, prefix: tuple[str, ...]) -> _Problem:
    """Return one of pydantic's errors in the words of a job."""
    path, optional = _path(details, data, prefix)
    kind, value = details["type"], shown(details["input"])
    message = one_line(details["msg"].removeprefix("Value error, "))
    if kind == "missing":
        return _Problem(path, "missing")
    if kind == "value_error":
        return _Problem(path, message)
    if kind == "union_tag_invalid" and isinstance(details["input"], dict):
        kinds = [name.strip(" '") for name in details["ctx"]["expected_tags"].split(",")]
        return _Problem((*path, _tag_of(details)), unknown(str(details["ctx"]["tag"]), kinds))
    if kind in ("union_tag_invalid", "union_tag_not_found", "model_attributes_type"):
        return _Problem(path, "", f"a mapping with a {_tag_of(details)}", value, optional)
    form = _EXPECTED.get(kind)
    if form is None:
        return _Problem(path, "", message.removeprefix("Input should be "), value, optional)
    return _Problem(path, "", form.format(**details.get("ctx", {})), value, optional)


def _tag_of(details: Any) -> str:
    """Return the key that selects a branch of a union, by the function that reads it."""
    function = details.get("ctx", {}).get("discriminator", "")
    return "rule" if function == "_rule()" else "kind"


def _path(details: Any, data: Any, prefix: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    """Return the path of an error in the job, and whether pydantic names a branch of a union.

    Pydantic puts the branch into the path, as in ``path.list[str]``; the job file has no such key.
    """
    path, inside, branch = [*prefix], data, False
    steps = details["loc"]
    for i, step in enumerate(steps):
        in_mapping = isinstance(inside, dict) and step in inside
        in_list = isinstance(inside, list) and isinstance(step, int) and step < len(inside)
        if in_mapping or in_list:
            inside = inside[step]
            path.append(str(step))
        elif details["type"] == "missing" and i == len(steps) - 1:
            path.append(str(step))
        else:
            branch = True
    return tuple(path), branch
