"""Copies the dead letters of a run to the topic that its job names."""

from __future__ import annotations

from pipeline.config.errors import JobError
from pipeline.dead_letters.topic_writer import CLOSE_TIMEOUT_S, TopicWriter
from pipeline.storage.run_folder import DEAD_LETTERS, FORWARDED
from pipeline.training.callback import Callback, RunContext
from pipeline.training.loop import Loop
from streams.core.errors import StreamError
from streams.core.stream import Cursor
from streams.kafka.stream import KafkaStream


class DeadLetterForwarder(Callback):
    """Delivers what a checkpoint holds of ``dead.jsonl`` to ``stream.dead_letters.topic``.

    Letters that are not delivered when a run ends are delivered by the next run in its folder.
    """

    def __init__(self, close_timeout_s: float = CLOSE_TIMEOUT_S) -> None:
        self._close_timeout_s = close_timeout_s
        self._writer: TopicWriter | None = None

    def on_start(self, context: RunContext, loop: Loop) -> None:
        stream = context.stream
        if not isinstance(stream, KafkaStream) or stream.config.dead_letters.topic is None:
            return
        writer = TopicWriter(
            context.folder / DEAD_LETTERS,
            context.folder / FORWARDED,
            stream,
            stream.config.dead_letters.topic,
            context.job,
            context.say,
            self._close_timeout_s,
        )
        if context.resumed_from is None:
            try:
                writer.check_topic()
            except StreamError as error:
                key = f"{context.job_file}: stream.dead_letters.topic"
                raise JobError(f"{key}: {error}") from None
        writer.start(context.dead_bytes)
        self._writer = writer

    def on_checkpoint_saved(self, cursor: Cursor, dead_bytes: int) -> None:
        if self._writer is not None:
            self._writer.deliver_up_to(dead_bytes)

    def teardown(self) -> dict[str, float]:
        if self._writer is not None:
            self._writer.close()
        return {}
