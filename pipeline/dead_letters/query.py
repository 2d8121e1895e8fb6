"""``everlearn dead-letters``: what a run set aside, and sending it once more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config import job as jobs
from pipeline.config.errors import JobError
from pipeline.config.yaml_file import read_yaml
from pipeline.dead_letters.file_writer import DeadLetterRecord, letters
from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.errors import one_line
from streams.kafka.stream import KafkaStream, topics_from

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
        if not (folder / DEAD_LETTERS).is_file() or not self.file.is_file():
            raise JobError(
                f"{folder}: no run has been here: job.yaml and {DEAD_LETTERS} are wanted"
            )
        raw = read_yaml(self.file)
        if not isinstance(raw, dict):
            raise JobError(f"{self.file}: a job is a mapping with name, stream and learner")
        for setting in overrides:
            jobs.override(raw, setting)
        self._raw = raw
        self._kafka = raw.get("stream", {}).get("kind") == "kafka"

    def namer(self) -> Callable[[DeadLetterRecord], str]:
        """What gives a letter's place its name: ``TOPIC/PARTITION/OFFSET``."""
        stream = self._raw["stream"]
        if not self._kafka:
            return lambda x: f"{'labels/' if x.label else ''}{x.partition}/{x.offset}"
        topics = topics_from(self._config(stream))

        def name(letter: DeadLetterRecord) -> str:
            prefix = "labels/" if letter.label else ""
            topic, partition = topics.topic_partition(f"{prefix}{letter.partition}")
            return f"{topic}/{partition}/{letter.offset}"

        return name

    def stream(self) -> KafkaStream:
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
        return KafkaStream(config, self._modules())

    def _config(self, raw: dict[str, Any]) -> Any:
        try:
            return KafkaStream.Config.model_validate(raw)
        except ValidationError as error:
            raise JobError(f"{self.file}: stream: {one_line(error)}") from None

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
    name: Callable[[DeadLetterRecord], str]

    def among(self, file: Path) -> Iterator[DeadLetterRecord]:
        text = None if self.reason is None else self.reason.casefold()
        for letter in letters(file):
            if text is not None and text not in letter.reason.casefold():
                continue
            if not self.at or self.name(letter) in self.at:
                yield letter
