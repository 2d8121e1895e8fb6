"""`everlearn dead-letters`."""

from __future__ import annotations

import base64
import json
from collections import Counter, deque
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.cli.console import reports_errors
from pipeline.config.errors import JobError
from pipeline.dead_letters.file_writer import DeadLetterRecord, reason_kind
from pipeline.dead_letters.query import DeadLetterQuery, StoredJob
from pipeline.dead_letters.reinjector import ReinjectionResult, Reinjector
from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.errors import StreamError, one_line

MAX_LETTERS_SHOWN = 20
"""Letters in the table without ``--limit``."""
MAX_BYTES_SHOWN = 40
MAX_KINDS_SHOWN = 20

RunDirArgument = Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]
ReasonOption = Annotated[str | None, typer.Option(help="Only those whose reason holds this text.")]
AtOption = Annotated[
    list[str] | None,
    typer.Option(metavar="TOPIC/PARTITION/OFFSET", help="Only the one at this position."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print a JSON line for each, with its bytes in base64.")
]
LimitOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Show only this many, the last ones.",
        show_default=f"{MAX_LETTERS_SHOWN}; --json: all",
    ),
]
InjectOption = Annotated[
    bool, typer.Option("--inject", help="Send them to their topics again, each once.")
]
AllOption = Annotated[bool, typer.Option("--all", help="With --inject: all of them.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="With --inject: only say how many.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the run's job."),
]


@dataclass(frozen=True, slots=True)
class _Request:
    """The options of the command."""

    run_dir: Path
    reason: str | None
    at: list[str]
    json: bool
    limit: int | None
    inject: bool
    all: bool
    dry_run: bool
    overrides: list[str]

    @property
    def file(self) -> Path:
        return self.run_dir / DEAD_LETTERS

    def check(self) -> None:
        """Raise ``JobError`` for options that do not go together."""
        if self.inject and (self.json or self.limit is not None):
            raise JobError("--inject lists nothing: leave out --json and --limit")
        if not self.inject and (self.all or self.dry_run):
            raise JobError("--all and --dry-run go with --inject")
        if self.inject and self.all == bool(self.reason is not None or self.at):
            raise JobError("--inject: say which: --all, or --reason TEXT, or --at POSITION")


def command(
    run_dir: RunDirArgument,
    reason: ReasonOption = None,
    at: AtOption = None,
    json_: JsonOption = False,
    limit: LimitOption = None,
    inject: InjectOption = False,
    all_: AllOption = False,
    dry_run: DryRunOption = False,
    set_: SetOption = None,
) -> None:
    """List what a run set aside, and why; send it again once the cause is fixed."""
    request = _Request(run_dir, reason, at or [], json_, limit, inject, all_, dry_run, set_ or [])
    errors = (JobError, StreamError, OSError)
    with reports_errors(refused=errors, started=False):
        request.check()
        job = StoredJob(run_dir, request.overrides)
        query = DeadLetterQuery(reason, frozenset(request.at), job.position_name())
        letters = [*query.select(request.file)] if inject or at else []
        _check_positions(query, letters, request.file)
        reinjector = Reinjector(run_dir, job.stream()) if inject else None
    advice = ". The same command goes on" if inject else ""
    with reports_errors(refused=(), failed=errors, advice=advice):
        if reinjector is not None:
            Console().print(_summary(reinjector.inject(letters, dry_run), dry_run))
        elif json_:
            _print_json(query, request)
        else:
            _print_tables(query, request)


def _check_positions(query: DeadLetterQuery, letters: list[DeadLetterRecord], file: Path) -> None:
    """Raise ``JobError`` if no letter is at one of the wanted positions."""
    if unknown := query.positions - set(map(query.name_of, letters)):
        raise JobError(f"--at {one_line(min(unknown))}: no such dead letter in {file}")


def _print_json(query: DeadLetterQuery, request: _Request) -> None:
    letters = query.select(request.file)
    for letter in deque(letters, request.limit) if request.limit else letters:
        position = query.name_of(letter)
        entry = {
            "position": position,
            "place": position,  # its former name
            "id": letter.id,
            "reason": letter.reason,
            "label": letter.label,
            "value": None if letter.value is None else base64.b64encode(letter.value).decode(),
        }
        typer.echo(json.dumps(entry))


def _print_tables(query: DeadLetterQuery, request: _Request) -> None:
    """Print the last letters, and how many there are of each kind of reason."""
    kinds: Counter[str] = Counter()
    last: deque[DeadLetterRecord] = deque(maxlen=request.limit or MAX_LETTERS_SHOWN)
    for letter in query.select(request.file):
        kinds[reason_kind(letter.reason)] += 1
        last.append(letter)
    console = Console()
    if not kinds:
        console.print("no dead letters")
        return
    console.print(_letter_table(query, last))
    console.print(_kind_table(kinds))
    total = f"{kinds.total():,} in all, the last {len(last):,} of them shown"
    console.print(total, highlight=False)


def _letter_table(query: DeadLetterQuery, letters: deque[DeadLetterRecord]) -> Table:
    table = Table("position", "reason", "bytes", "value")
    table.columns[2].justify = "right"
    for letter in letters:
        value = letter.value
        size = "" if value is None else f"{len(value):,}"
        text = "not kept" if value is None else _printable(value)
        cells = (query.name_of(letter), one_line(letter.reason), size, text)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _kind_table(kinds: Counter[str]) -> Table:
    table = Table("dead", "kind of reason")
    table.columns[0].justify = "right"
    for name, n in kinds.most_common(MAX_KINDS_SHOWN):
        table.add_row(f"{n:,}", Text(one_line(name)))
    if len(kinds) > MAX_KINDS_SHOWN:
        rest = sum(n for _, n in kinds.most_common()[MAX_KINDS_SHOWN:])
        table.add_row(f"{rest:,}", f"({len(kinds) - MAX_KINDS_SHOWN:,} more kinds)")
    return table


def _printable(value: bytes) -> str:
    """Return the first bytes of a value as printable text."""
    text = value[:MAX_BYTES_SHOWN].decode("ascii", "backslashreplace")
    shown = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return shown + ("..." if len(value) > MAX_BYTES_SHOWN else "")


def _summary(result: ReinjectionResult, dry_run: bool) -> str:
    sent = f"{result.sent:,} messages {'would be' if dry_run else 'were'} sent again"
    others = [
        f"{n:,} {what}"
        for n, what in (
            (result.sent_before, "were sent before"),
            (result.missing, "have bytes that no longer exist"),
            (result.too_large, "are too large for the broker"),
        )
        if n
    ]
    return f"{sent} ({', '.join(others)})" if others else sent
