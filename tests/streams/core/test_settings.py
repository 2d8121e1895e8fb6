"""Settings: unknown keys, renamed keys and strict numbers."""

from __future__ import annotations

from typing import Annotated, Any

import pytest
from pydantic import PositiveInt, ValidationError

from streams.core.settings import FormerName, Settings
from streams.core.stream_config import StreamConfig


class Timeouts(Settings):
    limit: Annotated[PositiveInt, FormerName("wait")] = 3
    share: float = 0.5


class OwnWait(Timeouts):
    wait: int = 0


def test_former_name_sets_the_current_key() -> None:
    assert Timeouts.model_validate({"wait": 5}) == Timeouts(limit=5)
    assert Timeouts.model_validate({"wait": 5}).model_dump() == {"limit": 5, "share": 0.5}


def test_both_names_are_an_error_that_names_both() -> None:
    with pytest.raises(ValidationError, match="limit and wait: wait is the former name of limit"):
        Timeouts.model_validate({"wait": 5, "limit": 5})


def test_wrong_value_under_a_former_name_names_the_key() -> None:
    with pytest.raises(ValidationError) as raised:
        Timeouts.model_validate({"wait": 0})
    assert [error["loc"] for error in raised.value.errors()] == [("limit",)]


def test_unknown_key_lists_current_names_only() -> None:
    with pytest.raises(ValidationError, match=r"unknown key 'wait_': .*There are: limit, share"):
        Timeouts.model_validate({"wait_": 0})


def test_former_name_that_a_subclass_uses_is_its_own() -> None:
    assert OwnWait.former_names() == {}
    own: Any = OwnWait.model_validate({"wait": -1})
    assert (own.wait, own.limit) == (-1, 3)


def test_former_names_of_every_stream() -> None:
    names = {"wait": "label_timeout_events", "within": "label_timeout_seconds"}
    assert StreamConfig.former_names() == names
