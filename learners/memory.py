"""What a job says under ``buffer:``."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import PositiveInt, TypeAdapter, ValidationError, field_validator

from buffers.buffer import Buffer
from buffers.recall import Recall
from buffers.rules import ADMISSIONS, RECALLS
from learners.registry import UnknownKind, load_object
from streams.settings import Settings, unknown


class BufferConfig(Settings):
    """What is remembered, and how it is recalled.

    Attributes:
        capacity: the most events that are kept.
        admission: who stays.
        recall: who is recalled: a name, or ``{kind: NAME, ...}`` with settings of the rule, which
            are the arguments of its class. A rule of a user's goes by its import path,
            ``module:Class``.
    """

    capacity: PositiveInt = 2000
    admission: str = "reservoir"
    recall: str | dict[str, Any] = "uniform"

    @field_validator("admission")
    @classmethod
    def _known(cls, name: str) -> str:
        if name not in ADMISSIONS:
            raise ValueError(unknown(name, ADMISSIONS))
        return name

    @field_validator("recall")
    @classmethod
    def _fits(cls, recall: str | dict[str, Any]) -> str | dict[str, Any]:
        given = {"kind": recall} if isinstance(recall, str) else dict(recall)
        rule, settings = _rule(given.pop("kind", "")), {}
        known = inspect.signature(rule).parameters
        for key, value in given.items():
            if key not in known or key in ("capacity", "views"):
                names = [name for name in known if name not in ("capacity", "views")]
                raise ValueError(f"unknown key {unknown(key, names)}")
            kind = inspect.get_annotations(rule.__init__, eval_str=True).get(key, Any)
            try:
                settings[key] = TypeAdapter(kind).validate_python(value, strict=kind is not float)
            except ValidationError as error:
                raise ValueError(f"{key}: {error.errors()[0]['msg']}") from None
        rule(2, **settings)  # what is out of range raises here, in the words of the rule
        return recall

    def rule(self, views: int = 1) -> Recall:
        """The recall rule, for a learner that makes so many presentations of a drawn row."""
        given = {"kind": self.recall} if isinstance(self.recall, str) else dict(self.recall)
        return _rule(given.pop("kind"))(self.capacity, views=views, **given)

    def build(self, seed: int, views: int = 1) -> Buffer:
        return Buffer(self.capacity, self.admission, self.rule(views), seed)


def _rule(name: Any) -> type[Recall]:
    if isinstance(name, str) and ":" in name:
        try:
            found = load_object(name)
        except UnknownKind as error:
            raise ValueError(str(error)) from None
        if not (inspect.isclass(found) and issubclass(found, Recall)):
            raise ValueError(f"{name} is not a subclass of buffers.recall.Recall")
        return found
    if name not in RECALLS:
        raise ValueError(unknown(str(name), RECALLS) + ", or the import path of a rule")
    return RECALLS[name]
