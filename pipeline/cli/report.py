"""``everlearn report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import reports_errors, say


def report(
    path: Annotated[
        Path, typer.Argument(help="Folder of a run or of a bench.", show_default=False)
    ],
    out: Annotated[
        Path | None, typer.Option(help="The file to write.", show_default="PATH/report.html")
    ] = None,
) -> None:
    """Write one HTML page of a run or a bench: curves, forgetting, segments; opens offline."""
    from pipeline.report.build import ReportError, write_report

    with reports_errors(refused=(ReportError,)):
        say(f"written to {write_report(path, out)}")
