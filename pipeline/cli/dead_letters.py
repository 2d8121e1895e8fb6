"""`everlearn dead-letters`."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter, deque
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config.errors import JobError
from pipeline.dead_letters.file_writer import DeadLetterRecord, kind
from pipeline.dead_letters.query import BYTES_SHOWN, KINDS_SHOWN, SHOWN, Chosen, RunJob
from pipeline.dead_letters.reinjector import Injected, Injector
from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.errors import StreamError, one_line


def command(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)],
    reason: Annotated[
        str | None, typer.Option(help="Only those whose reason holds this text.")
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option(metavar="TOPIC/PARTITION/OFFSET", help="Only the one at this place."),
    ] = None,
    json_: Annotated[
        bool, typer.Option("--json", help="A JSON line for each, with its bytes in base64.")
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Show the last so many.", show_default=f"{SHOWN}; --json: all"),
    ] = None,
    inject: Annotated[
        bool, typer.Option("--inject", help="Send them to their topics again, each once.")
    ] = False,
    all_: Annotated[bool, typer.Option("--all", help="With --inject: all of them.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --inject: only say how many.")
    ] = False,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the run's job."),
    ] = None,
) -> None:
    """Lists what a run set aside, and why; sends it once more when what was wrong is mended."""
    console = Console(stderr=True)

    def say(what: str) -> None:
        console.print(f"everlearn: {what}", highlight=False, markup=False, soft_wrap=True)

    try:
        if inject and (json_ or limit is not None):
            raise JobError("--inject lists nothing: leave out --json and --limit")
        if not inject and (all_ or dry_run):
            raise JobError("--all and --dry-run go with --inject")
        if inject and all_ == bool(reason is not None or at):
            raise JobError("--inject: say which: --all, or --reason TEXT, or --at PLACE")
        run = RunJob(run_dir, set_ or [])
        chosen = Chosen(reason, frozenset(at or ()), run.namer())
        found: Any = list(chosen.among(run_dir / DEAD_LETTERS)) if inject or at else None
        if at and (unknown := chosen.at - {chosen.name(x) for x in found}):
            raise JobError(
                f"--at {one_line(min(unknown))}: no such dead letter in {run_dir / DEAD_LETTERS}"
            )
        stream = run.stream() if inject else None
    except (JobError, StreamError, OSError) as error:
        for problem in str(error).splitlines():
            say(problem)
        sys.exit(2)
    try:
        if stream is not None:
            Console().print(_told(Injector(run_dir, stream).inject(found, dry_run), dry_run))
        elif json_:
            _lines(chosen, run_dir / DEAD_LETTERS, limit)
        else:
            _tables(chosen, run_dir / DEAD_LETTERS, limit or SHOWN)
    except (JobError, StreamError, OSError) as error:
        say(f"{one_line(error)}. The same command goes on" if inject else one_line(error))
        sys.exit(1)


def _lines(chosen: Chosen, file: Path, limit: int | None) -> None:
    for letter in deque(chosen.among(file), limit) if limit else chosen.among(file):
        told = {
            "place": chosen.name(letter),
            "id": letter.id,
            "reason": letter.reason,
            "label": letter.label,
            "value": None if letter.value is None else base64.b64encode(letter.value).decode(),
        }
        typer.echo(json.dumps(told))


def _tables(chosen: Chosen, file: Path, limit: int) -> None:
    kinds: Counter[str] = Counter()
    last: deque[DeadLetterRecord] = deque(maxlen=limit)
    for letter in chosen.among(file):
        kinds[kind(letter.reason)] += 1
        last.append(letter)
    console = Console()
    if not kinds:
        console.print("no dead letters")
        return
    shown = Table("where", "reason", "bytes", "what stood there")
    shown.columns[2].justify = "right"
    for letter in last:
        value = letter.value
        size = "" if value is None else f"{len(value):,}"
        held = "not kept" if value is None else _safe(value)
        cells = (chosen.name(letter), one_line(letter.reason), size, held)
        shown.add_row(*(Text(cell) for cell in cells))
    console.print(shown)
    counts = Table("dead", "kind of reason")
    counts.columns[0].justify = "right"
    for name, n in kinds.most_common(KINDS_SHOWN):
        counts.add_row(f"{n:,}", Text(one_line(name)))
    if len(kinds) > KINDS_SHOWN:
        rest = sum(n for _, n in kinds.most_common()[KINDS_SHOWN:])
        counts.add_row(f"{rest:,}", f"({len(kinds) - KINDS_SHOWN:,} more kinds)")
    console.print(counts)
    told = f"{kinds.total():,} in all, the last {len(last):,} of them shown"
    console.print(told, highlight=False)


def _safe(value: bytes) -> str:
    """The head of some bytes, as a terminal may show it."""
    head = value[:BYTES_SHOWN]
    text = head.decode("ascii", "backslashreplace")
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown + ("..." if len(value) > BYTES_SHOWN else "")


def _told(done: Injected, dry: bool) -> str:
    told = f"{done.sent:,} messages {'would be' if dry else 'were'} sent again"
    beside = [
        f"{n:,} {what}"
        for n, what in (
            (done.before, "had been before"),
            (done.missing, "have no bytes that can still be had"),
            (done.large, "are too large for the broker"),
        )
        if n
    ]
    return f"{told} ({', '.join(beside)})" if beside else told
