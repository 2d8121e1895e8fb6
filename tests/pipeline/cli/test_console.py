"""Messages on standard error, and the exit status of each kind of error."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.console import reports_errors, say
from pipeline.config.errors import JobError
from pipeline.training.errors import RunError


def test_say_prints_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say("[not markup] " + "x" * 300)
    captured = capsys.readouterr()
    assert captured.err == f"everlearn: [not markup] {'x' * 300}\n"
    assert captured.out == ""


@pytest.mark.parametrize(
    ("error", "status", "lines"),
    [
        (JobError("a: missing\nb: missing"), 2, ["a: missing", "b: missing"]),
        (RunError("disk full"), 1, ["disk full. Run it again"]),
        (KeyboardInterrupt(), 1, ["stopped"]),
    ],
)
def test_reports_errors_maps_an_error_to_its_status(
    error: BaseException, status: int, lines: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        pytest.raises(SystemExit) as left,
        reports_errors(failed=(RunError,), advice=". Run it again", interrupted="stopped"),
    ):
        raise error
    assert left.value.code == status
    assert capsys.readouterr().err.splitlines() == [f"everlearn: {line}" for line in lines]


@pytest.mark.parametrize(
    ("started", "status", "state"), [(True, 1, ""), (False, 2, "Nothing was started. ")]
)
def test_reports_errors_writes_a_defect_to_a_log(
    started: bool, status: int, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    @reports_errors(started=started)
    def command() -> None:
        raise ZeroDivisionError("by\nzero")

    with pytest.raises(SystemExit) as left:
        command()
    assert left.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    start, _, log = line.partition("Details: ")
    assert start.startswith("everlearn: ZeroDivisionError: by")
    assert start.endswith(f"zero. {state}")
    assert "ZeroDivisionError" in Path(log).read_text()
    Path(log).unlink()


def test_reports_errors_leaves_ctrl_c_without_a_message() -> None:
    with pytest.raises(KeyboardInterrupt), reports_errors():
        raise KeyboardInterrupt
