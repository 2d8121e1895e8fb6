"""What an error says, in one line that a terminal shows as it is."""

from __future__ import annotations

import pytest

from streams.core.errors import LINE_LENGTH, one_line


class MuteError(Exception):
    """Cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("one\n  two\r\nthree"), "one two three"),
        (ValueError("\x1b[1;31mred\x1b[0m and \x1b]0;title\x07 plain"), "red and plain"),
        (ValueError("a\x00b\x07\u202ec"), "abc"),
        (ValueError(), "ValueError"),
        (MuteError(), "MuteError"),
        ("a text\nas well", "a text as well"),
    ],
)
def test_one_line_is_printable(error: BaseException | str, says: str) -> None:
    assert one_line(error) == says


def test_one_line_is_short() -> None:
    assert len(one_line(ValueError("x" * 10_000))) == LINE_LENGTH
