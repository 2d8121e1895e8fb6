"""The command line, one module a command.

Exit status: 0 done, 1 failed or stopped on the way (state kept), 2 a bad job or command (nothing
started).
"""

from __future__ import annotations

import typer

from pipeline.cli.bench import bench
from pipeline.cli.dead_letters import command as dead_letters
from pipeline.cli.doctor import doctor
from pipeline.cli.inspect import inspect
from pipeline.cli.produce import command as produce
from pipeline.cli.report import report
from pipeline.cli.run import record, replay, run
from pipeline.cli.serve import serve

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Predict, score and learn every event of a stream; exact across kill -9.",
)

app.command("run")(run)
app.command("record")(record)
app.command("replay")(replay)
app.command("inspect")(inspect)
app.command("serve")(serve)
app.command("report")(report)
app.command("bench")(bench)
app.command("dead-letters")(dead_letters)
app.command("produce")(produce)
app.command("doctor")(doctor)
