"""Times as text, and the nights in which clocks are set back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from streams.times import autumn_night


@pytest.mark.parametrize(
    ("local", "wanted"),
    [
        ("2024-10-27T02:30", True),  # Europe
        ("2024-04-07T01:30", True),  # Lord Howe, by half an hour
        ("2024-04-06T23:30", True),  # Chile: 23 o'clock of Saturday comes twice
        ("2024-11-03T00:30", True),  # Cuba
        ("2024-10-27T04:30", False),
        ("2024-04-06T22:30", False),
        ("2024-07-07T01:30", False),
        ("2024-10-28T02:30", False),
    ],
)
def test_autumn_night_is_one_to_sunday(local: str, wanted: bool) -> None:
    assert autumn_night(datetime.fromisoformat(local).replace(tzinfo=UTC).timestamp()) == wanted
