"""Checkpoints: all that the state digest covers, as one atomic, verified unit.

A checkpoint is a folder, named by the number of events before it. It is written in these steps; the
run can resume whichever step the process dies in:

1. arrays and JSON go to files in a folder whose name starts with ``.writing-``,
2. a manifest with the size and sha256 of each file, and of itself, is written last,
3. files and folder are flushed to the disk (fsync), so that step 4 cannot overtake them,
4. the folder gets its final name (an atomic rename), and its parent is flushed,
5. checkpoints beyond the newest ``keep`` are deleted.

The checkpoint of a run that has come to an end holds two states: that of the end, and that before
the last micro-batch. The end cuts the last micro-batch short and releases the labels that are
awaited, so a run that goes on does so from the second, as if there had been no end.

Resume reads the newest one whose manifest and checksums hold; it names and skips a broken one. The
only pickle ever read is the state of an opaque learner, once the checksum of its file holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from pipeline.storage.run_folder import flush_to_disk
from streams.core.batch import Array
from streams.core.state_dict import State, copied, leaves, nested

FORMAT = 1
_WRITING = ".writing-"
_RESUME = "resume-"
"""Prefix of the files of the second state of a checkpoint."""


class CheckpointError(Exception):
    """A checkpoint cannot be read or written: the message names the file and the remedy."""


class Checkpoint(NamedTuple):
    """A verified checkpoint; ``about`` holds what its manifest says besides the files."""

    path: Path
    events: int
    state: State
    about: dict[str, Any]


class ResumePoint(NamedTuple):
    """The state before the last micro-batch of a run, from which the run goes on.

    Attributes:
        events: events before it.
        state: the state.
        source: what must be known of the source of the events; JSON.
    """

    events: int
    state: State
    source: dict[str, Any]


class Checkpoints:
    """Write the checkpoints of one run in a thread, and read them.

    Args:
        folder: of the checkpoints; it is made.
        keep: how many of the newest to keep.
        say: takes a line for each checkpoint that cannot be written or read.

    Attributes:
        seconds: that the last one took to write.
    """

    def __init__(self, folder: Path, keep: int, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.keep = keep
        self.say = say
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None
        self._reported = False  # that the last one could not be written
        self.seconds = 0.0

    def begin(self) -> None:
        """Make the folder, and finish what a killed writer left.

        A checkpoint that lacks only its name gets it: the writer may have died between deleting an
        older one of that name and step 4. Anything else is deleted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.glob(f"{_WRITING}*"):
            try:
                read(left)
            except CheckpointError:
                shutil.rmtree(left)
            else:
                _replace(left, self.folder / left.name.removeprefix(_WRITING))

    def write(
        self,
        events: int,
        state: State,
        about: dict[str, Any],
        then: Callable[[], None] | None = None,
        point: ResumePoint | None = None,
    ) -> None:
        """Copy the state, and write it in a thread. The next call waits until it is written.

        A checkpoint that cannot be written, as on a full disk, is reported once, until one can; the
        run goes on, and the checkpoints before it stay.

        Args:
            events: events that the state stands after.
            state: the state.
            about: more for the manifest; JSON.
            then: called in the thread once the checkpoint is whole.
            point: where a run that has come to an end here would go on, with a state of its own.

        Raises:
            CheckpointError: the state holds a value that cannot be written.
        """
        for path, leaf in leaves(state):
            if isinstance(leaf, np.ndarray | np.generic):
                supported, kind = leaf.dtype.kind in "biuf", f"dtype {leaf.dtype}"
            else:
                supported, kind = _is_json(leaf), f"type {type(leaf).__name__}"
            if not supported:
                raise CheckpointError(
                    f"state {path!r} has {kind}, which cannot be kept: arrays of numbers and "
                    "booleans can, and whatever JSON says"
                )
        failure = self.wait()
        if failure is not None and not self._reported:
            self.say(
                f"checkpoint not written: {failure.strerror or failure} ({self.folder}). Training "
                "goes on; the checkpoints before it are whole, and the next is tried in its turn"
            )
        self._reported = failure is not None
        self._writing = self._writer.submit(self._write, events, copied(state), about, then, point)

    def wait(self) -> OSError | None:
        """Wait for the checkpoint being written; return why it could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            try:
                writing.result()
            except OSError as error:
                return error
        return None

    def close(self) -> None:
        """Wait for the checkpoint being written, and end the thread."""
        self._writer.shutdown(wait=True)

    def _write(
        self,
        events: int,
        state: State,
        about: dict[str, Any],
        then: Callable[[], None] | None,
        point: ResumePoint | None,
    ) -> None:
        start = time.perf_counter()
        name = f"{events:015d}"
        writing = self.folder / f"{_WRITING}{name}"
        try:
            writing.mkdir()
            _write_state(writing, state)
            if point is not None:
                _write_state(writing, point.state, _RESUME)
                about = {**about, "resume": {"events": point.events, "source": point.source}}
            files = {file.name: _fingerprint(file) for file in sorted(writing.iterdir())}
            manifest = {"format": FORMAT, "events": events, "files": files, **about}
            seal = hashlib.sha256(_canonical(manifest)).hexdigest()
            (writing / "manifest.json").write_text(json.dumps({**manifest, "seal": seal}, indent=1))
            for file in (*writing.iterdir(), writing):
                flush_to_disk(file)
            _replace(writing, self.folder / name)  # there may be one: a run that was resumed
            flush_to_disk(self.folder)
        except BaseException:
            shutil.rmtree(writing, ignore_errors=True)
            raise
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        if then is not None:
            then()
        self.seconds = time.perf_counter() - start

    def all(self) -> list[Path]:
        """Return the folders of all checkpoints, oldest first, whole or not."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit())

    def newest(self) -> Checkpoint | None:
        """Return the newest whole checkpoint; None where there is none at all.

        Raises:
            CheckpointError: there are some, and none is whole.
        """
        folders = self.all()
        for i, path in reversed([*enumerate(folders)]):
            try:
                whole = read(path)
            except CheckpointError as error:
                self.say(f"{error}; trying the one before it")
                continue
            for broken in folders[i + 1 :]:  # or they would count among the newest to keep
                _replace(broken, broken.with_name(f"broken-{broken.name}"))
            return whole
        if folders:
            raise CheckpointError(
                f"none of the {len(folders)} checkpoints in {self.folder} is whole: restore one "
                "from a backup, or start afresh with another --run-dir"
            )
        return None


def read(path: Path) -> Checkpoint:
    """Read and verify the checkpoint in a folder. Raise ``CheckpointError``, which names the file
    that is broken."""
    manifest_path = path / "manifest.json"
    try:
        manifest = json.loads(manifest_path.read_text())
        seal = manifest.pop("seal")
        if hashlib.sha256(_canonical(manifest)).hexdigest() != seal:
            raise ValueError("its own checksum does not hold")
    except FileNotFoundError:
        raise CheckpointError(
            f"{path} is no checkpoint: there is no manifest.json in it; a checkpoint is "
            "RUN/checkpoints/NUMBER"
        ) from None
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"broken checkpoint file {manifest_path}: {why}") from None
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"checkpoint {path} has format {manifest['format']}, and this everlearn reads {FORMAT}"
        )
    for name, expected in manifest["files"].items():
        try:
            actual = _fingerprint(path / name)
        except OSError as error:
            raise CheckpointError(
                f"broken checkpoint file {path / name}: {error.strerror}"
            ) from None
        if actual != expected:
            why = (
                "its checksum does not hold"
                if actual["bytes"] == expected["bytes"]
                else f"it has {actual['bytes']} of {expected['bytes']} bytes"
            )
            raise CheckpointError(f"broken checkpoint file {path / name}: {why}")
    about = {k: v for k, v in manifest.items() if k not in ("format", "files", "events")}
    return Checkpoint(path, manifest["events"], _read_state(path), about)


def resume_point(checkpoint: Checkpoint) -> ResumePoint | None:
    """Return the second state of a checkpoint that ``read`` returned; None where it has none."""
    about = checkpoint.about.get("resume")
    if about is None:
        return None
    return ResumePoint(about["events"], _read_state(checkpoint.path, _RESUME), about["source"])


def _write_state(folder: Path, state: State, prefix: str = "") -> None:
    """Write a state into a folder. Raise ``OSError``."""
    arrays: dict[str, Array] = {}
    values: dict[str, Any] = {}
    for path, leaf in leaves(state):
        if isinstance(leaf, np.ndarray | np.generic):
            # ascontiguousarray makes one dimension of none
            arrays[path] = np.ascontiguousarray(leaf).reshape(leaf.shape)
        else:
            values[path] = leaf
    try:
        save_file(arrays, folder / f"{prefix}arrays.safetensors")
    except SafetensorError as error:  # which is how it tells of a full disk
        number = re.search(r"I/O error.*\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from None
    (folder / f"{prefix}values.json").write_text(json.dumps(values))


def _read_state(folder: Path, prefix: str = "") -> State:
    flat: dict[str, Any] = {**load_file(folder / f"{prefix}arrays.safetensors")}
    flat |= json.loads((folder / f"{prefix}values.json").read_text())
    return nested(flat)


def _fingerprint(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        sha = hashlib.file_digest(opened, "sha256").hexdigest()
        return {"sha256": sha, "bytes": opened.tell()}


def _is_json(leaf: Any) -> bool:
    try:
        json.dumps(leaf)
    except (TypeError, ValueError):
        return False
    return True


def _canonical(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, sort_keys=True).encode()


def _replace(path: Path, final: Path) -> None:
    """Give a folder its final name; delete the one that has it."""
    shutil.rmtree(final, ignore_errors=True)
    path.rename(final)
