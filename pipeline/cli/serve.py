"""``everlearn serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import reports_errors, say


def serve(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen at; 0 takes a free one.")
    ] = 8000,
    poll: Annotated[
        float, typer.Option(min=0.01, help="Seconds between two checks for a newer model.")
    ] = 1.0,
) -> None:
    """Serve the newest model of a run, finished or still running, until Ctrl-C."""
    from pipeline.config.sections import ServeConfig
    from pipeline.serving.checkpoint_server import ServeError
    from pipeline.serving.checkpoint_server import serve as serve_checkpoints

    with reports_errors(refused=(ServeError,)):
        serve_checkpoints(run_dir, ServeConfig(host=host, port=port), poll, say)
