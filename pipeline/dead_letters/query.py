"""Selects dead letters of a run folder, and reads the stream that they came from."""

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
from pipeline.dead_letters.file_writer import DeadLetterRecord, read_dead_letters
from pipeline.storage.run_folder import DEAD_LETTERS
from streams.core.errors import one_line
from streams.kafka.config import KafkaConfig
from streams.kafka.stream import KafkaStream, topics_from

NameOf = Callable[[DeadLetterRecord], str]
"""Returns the name of a letter's position."""


class StoredJob:
    """The job of a run folder, read only as far as its stream.

    Raises ``JobError`` if the folder holds no run.
    """

    def __init__(self, folder: Path, overrides: list[str]) -> None:
        self.folder = folder
        self.file = folder / "job.yaml"
        if not (folder / DEAD_LETTERS).is_file() or not self.file.is_file():
            raise JobError(f"{folder}: no run here: expected job.yaml and {DEAD_LETTERS}")
        raw = read_yaml(self.file)
        if not isinstance(raw, dict):
            raise JobError(f"{self.file}: a job is a mapping with a stream")
        for setting in overrides:
            jobs.override(raw, setting)
        self._raw = raw
        self._is_kafka = raw.get("stream", {}).get("kind") == "kafka"

    def position_name(self) -> NameOf:
        """Return what names the position of a letter: ``TOPIC/PARTITION/OFFSET`` for Kafka."""

        def cursor_key(letter: DeadLetterRecord) -> str:
            return f"{'labels/' if letter.label else ''}{letter.partition}"

        if not self._is_kafka:
            return lambda letter: f"{cursor_key(letter)}/{letter.offset}"
        topics = topics_from(self._config(self._raw["stream"]))

        def name(letter: DeadLetterRecord) -> str:
            topic, partition = topics.topic_partition(cursor_key(letter))
            return f"{topic}/{partition}/{letter.offset}"

        return name

    def stream(self) -> KafkaStream:
        """Return the stream, to read from and to send to."""
        raw = self._raw["stream"]
        if not self._is_kafka:
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
        return KafkaStream(config, self._job_folder())

    def _config(self, raw: dict[str, Any]) -> KafkaConfig:
        try:
            return KafkaConfig.model_validate(raw)
        except ValidationError as error:
            raise JobError(f"{self.file}: stream: {one_line(error)}") from None

    def _job_folder(self) -> Path:
        """Return the folder of the original job file, which relative paths start from."""
        for manifest in sorted(self.folder.glob("checkpoints/*/manifest.json"), reverse=True):
            try:
                return Path(json.loads(manifest.read_text())["modules"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return self.folder


@dataclass(frozen=True, slots=True)
class DeadLetterQuery:
    """Selects the letters whose reason holds a text, at one of some positions.

    Attributes:
        reason: text, compared without case; None: any reason.
        positions: names of positions; empty: any position.
        name_of: returns the name of a letter's position.
    """

    reason: str | None
    positions: frozenset[str]
    name_of: NameOf

    def select(self, file: Path) -> Iterator[DeadLetterRecord]:
        """Yield the selected letters of a file. Raise ``OSError`` if it cannot be read."""
        text = None if self.reason is None else self.reason.casefold()
        for letter in read_dead_letters(file):
            if text is not None and text not in letter.reason.casefold():
                continue
            if not self.positions or self.name_of(letter) in self.positions:
                yield letter
