"""``everlearn dead-letters``: what a run set aside, and sending it once more."""

from __future__ import annotations

import base64
import json
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.dead_letters.file_writer import FILE, Letter, kind, letters
from pipeline.dead_letters.reinjector import Injected, Injector
from streams.core.errors import StreamError, line
from streams.kafka.stream import Kafka

SHOWN = 20
"""Letters in the table where it is not said how many."""
BYTES_SHOWN = 40
KINDS_SHOWN = 20


class RunJob:
    """The job that a run folder keeps, as far as its stream goes.

    Raises ``JobError`` where there is no run in the folder.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self.file = folder / "job.yaml"
        if not (folder / FILE).is_file() or not self.file.is_file():
            raise JobError(f"{folder}: no run has been here: job.yaml and {FILE} are wanted")
        raw = jobs.values(self.file)
        if not isinstance(raw, dict):
            raise JobError(f"{self.file}: a job is a mapping with name, stream and learner")
        for setting in overrides:
            jobs.override(raw, setting)
        self._raw = raw
        self._kafka = raw.get("stream", {}).get("kind") == "kafka"

    def namer(self) -> Callable[[Letter], str]:
        """What gives a letter's place its name: ``TOPIC/PARTITION/OFFSET``."""
        stream = self._raw["stream"]
        if not self._kafka:
            return lambda x: f"{'labels/' if x.label else ''}{x.partition}/{x.offset}"
        topics = Kafka.topics(self._config(stream))

        def name(letter: Letter) -> str:
            prefix = "labels/" if letter.label else ""
            topic, partition = topics.place(f"{prefix}{letter.partition}")
            return f"{topic}/{partition}/{letter.offset}"

        return name

    def stream(self) -> Kafka:
        """The stream, to read from and to send to."""
        raw = self._raw["stream"]
        if not self._kafka:
            raise JobError(
                f"{self.file}: stream.kind {raw.get('kind')!r}: only messages of topics "
                "(stream.kind: kafka) can be sent again"
            )
        config = self._config(raw)
        for name, value in config.client.items():
            if value == "***":
                raise JobError(
                    f"{self.file}: stream.client.{name} is a secret, which no run folder keeps: "
                    f"add --set stream.client.{name}='${{NAME}}' with the name of a variable that "
                    "holds it"
                )
        return Kafka(config, self._modules())

    def _config(self, raw: dict[str, Any]) -> Any:
        try:
            return Kafka.Config.model_validate(raw)
        except ValidationError as error:
            raise JobError(f"{self.file}: stream: {line(error)}") from None

    def _modules(self) -> Path:
        """The folder of the job file, which the paths in it start from."""
        for manifest in sorted(self.folder.glob("checkpoints/*/manifest.json"), reverse=True):
            try:
                return Path(json.loads(manifest.read_text())["modules"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return self.folder


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which letters are meant: all of those whose reason holds the text, at one of the places."""

    reason: str | None
    at: frozenset[str]
    name: Callable[[Letter], str]

    def among(self, file: Path) -> Iterator[Letter]:
        text = None if self.reason is None else self.reason.casefold()
        for letter in letters(file):
            if text is not None and text not in letter.reason.casefold():
                continue
            if not self.at or self.name(letter) in self.at:
                yield letter


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
        found: Any = list(chosen.among(run_dir / FILE)) if inject or at else None
        if at and (unknown := chosen.at - {chosen.name(x) for x in found}):
            raise JobError(f"--at {line(min(unknown))}: no such dead letter in {run_dir / FILE}")
        stream = run.stream() if inject else None
    except (JobError, StreamError, OSError) as error:
        for problem in str(error).splitlines():
            say(problem)
        sys.exit(2)
    try:
        if stream is not None:
            Console().print(_told(Injector(run_dir, stream).inject(found, dry_run), dry_run))
        elif json_:
            _lines(chosen, run_dir / FILE, limit)
        else:
            _tables(chosen, run_dir / FILE, limit or SHOWN)
    except (JobError, StreamError, OSError) as error:
        say(f"{line(error)}. The same command goes on" if inject else line(error))
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
    last: deque[Letter] = deque(maxlen=limit)
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
        cells = (chosen.name(letter), line(letter.reason), size, held)
        shown.add_row(*(Text(cell) for cell in cells))
    console.print(shown)
    counts = Table("dead", "kind of reason")
    counts.columns[0].justify = "right"
    for name, n in kinds.most_common(KINDS_SHOWN):
        counts.add_row(f"{n:,}", Text(line(name)))
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
