"""The keys under ``buffer:`` in a job."""

from __future__ import annotations

import inspect
import math
from typing import Any

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError, field_validator

from buffers.buffer import Buffer
from buffers.recall.base import Recall
from buffers.registry import ADMISSIONS, RECALLS, find_recall
from learners.registry import UnknownKindError, load_object
from streams.core.errors import one_line
from streams.core.settings import Settings, unknown


class BufferConfig(Settings):
    """Which events are stored, and which are recalled.

    Attributes:
        capacity: the most events that are stored.
        admission: the name of the admission rule.
        recall: the name of the recall rule, or ``{kind: NAME, ...}`` with settings, which are the
            arguments of its class. A user's rule has its import path ``module:Class`` as name. The
            validated value states all settings of a rule that has any.
    """

    capacity: PositiveInt = Field(2000, le=10**9)
    admission: str = "reservoir"
    recall: str | dict[str, Any] = "uniform"

    @field_validator("admission")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ADMISSIONS:
            raise ValueError(unknown(name, ADMISSIONS))
        return name

    @field_validator("recall", mode="before")
    @classmethod
    def _fits(cls, recall: Any) -> str | dict[str, Any]:
        if not isinstance(recall, str | dict):
            raise ValueError(
                f"{recall!r}: the name of a rule, or a mapping with its kind, is wanted"
            )
        stated = {"kind": recall} if isinstance(recall, str) else dict(recall)
        if "kind" not in stated:
            raise ValueError(f"kind: which rule? There are: {', '.join(RECALLS)}")
        kind = stated.pop("kind")
        rule = _rule(kind)
        settings = _settings(rule, stated)
        try:
            rule(2, views=1, **settings).state(0)
        except ValueError:  # a setting out of range: the rule has the message
            raise
        except (Exception, SystemExit) as error:  # a user's class may raise anything
            raise ValueError(
                f"{kind} cannot be made: {type(error).__name__}: {one_line(error)}"
            ) from error
        return {"kind": kind, **settings} if settings else kind

    def rule(self, views: int = 1) -> Recall:
        """Return the recall rule, for a learner that presents a drawn row ``views`` times."""
        settings = {"kind": self.recall} if isinstance(self.recall, str) else dict(self.recall)
        return _rule(settings.pop("kind"))(self.capacity, views=views, **settings)

    def build(self, seed: int, views: int = 1) -> Buffer:
        """Return an empty buffer with these rules."""
        return Buffer(self.capacity, self.admission, self.rule(views), seed)


def _settings(rule: type[Recall], stated: dict[str, Any]) -> dict[str, Any]:
    """Return all settings of a rule: those stated, and defaults. Raises ``ValueError``."""
    known = {
        name: parameter
        for name, parameter in inspect.signature(rule).parameters.items()
        if name not in ("capacity", "views")
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    for key in stated:
        if not known:
            raise ValueError(f"unknown key {key!r}: {rule.name} has no settings")
        if key not in known:
            raise ValueError(f"unknown key {unknown(str(key), known)}")
    kinds = inspect.get_annotations(rule.__init__, eval_str=True)
    settings = {}
    for name, parameter in known.items():
        if name in stated:
            settings[name] = _value(name, stated[name], kinds.get(name, Any))
        elif parameter.default is not parameter.empty:
            settings[name] = parameter.default
        else:
            raise ValueError(f"{name}: it has no default, and must be stated")
    return settings


def _value(name: str, value: Any, kind: Any) -> Any:
    try:
        value = TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        raise ValueError(f"{name}: {value!r}: {error.errors()[0]['msg']}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}: {value}: a finite number is wanted")
    return value


def _rule(name: Any) -> type[Recall]:
    if isinstance(name, str) and ":" in name:
        try:
            rule = load_object(name)
        except UnknownKindError as error:
            raise ValueError(str(error)) from None
        if not (inspect.isclass(rule) and issubclass(rule, Recall)):
            raise ValueError(f"{name} is not a subclass of buffers.recall.base.Recall")
        if missing := sorted(getattr(rule, "__abstractmethods__", ())):
            raise ValueError(f"{name} is abstract: it does not define {', '.join(missing)}")
        if not isinstance(getattr(rule, "name", None), str):
            raise ValueError(f"{name} has no name: state one in the class, as in name = 'mine'")
        return rule
    if not isinstance(name, str) or name not in RECALLS:
        raise ValueError(unknown(str(name), RECALLS) + ", or the import path of a rule")
    return find_recall(name)
