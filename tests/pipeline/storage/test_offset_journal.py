"""The journal: what was read is found again, whatever killed the one that wrote it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.errors import JobError
from pipeline.storage.offset_journal import Entry, Journal
from streams.core.live_stream import Ranges
from streams.core.stream import Cursor

HEAD = b'{"start":{"0":5,"labels/0":0},"stop":null,"fingerprint":{}}\n'
START: Cursor = {"0": 5, "labels/0": 0}
BLOCKS: list[tuple[Ranges, bool]] = [
    ({"0": (5, 9)}, False),
    ({"0": (9, 12), "labels/0": (0, 3)}, True),
    ({}, True),
    ({"1": (0, 2)}, False),
]
ENTRIES = [Entry(number, ranges, ends) for number, (ranges, ends) in enumerate(BLOCKS)]
LINES = [
    b'{"block":0,"ranges":{"0":[5,9]}}\n',
    b'{"block":1,"ranges":{"0":[9,12],"labels/0":[0,3]},"ends":true}\n',
    b'{"block":2,"ranges":{},"ends":true}\n',
    b'{"block":3,"ranges":{"1":[0,2]}}\n',
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """With four blocks in it."""
    journal = Journal(tmp_path)
    journal.begin(START, None)
    assert [journal.write(*block) for block in BLOCKS] == [0, 1, 2, 3]
    yield journal
    journal.close()


@pytest.fixture
def again(tmp_path: Path) -> Iterator[Journal]:
    """Of another process, in the same folder."""
    journal = Journal(tmp_path)
    yield journal
    journal.close()


def test_journal_keeps_the_clock_of_a_block(journal: Journal, again: Journal) -> None:
    """A line from before there was a clock has none."""
    at = 1_790_000_000.1234567
    assert journal.write({"0": (12, 13)}, False, at) == 4
    assert list(again.go_on(None)) == [*ENTRIES, Entry(4, {"0": (12, 13)}, False, at)]
    assert journal.path.read_bytes().endswith(b',"read_at":1790000000.1234567}\n')


def test_journal_lines_hold_ranges_and_flush(journal: Journal) -> None:
    """Each line is with the operating system as soon as it is written."""
    assert journal.path.name == "journal.jsonl"
    assert journal.path.read_bytes() == HEAD + b"".join(LINES)


def test_journal_is_read_as_written(journal: Journal, again: Journal) -> None:
    assert again.begun
    assert again.head() == START
    assert again.stop is None
    assert list(again.go_on(None)) == ENTRIES
    assert again.write({"0": (12, 13)}, False) == 4
    assert again.path.read_bytes().endswith(LINES[3] + b'{"block":4,"ranges":{"0":[12,13]}}\n')


def at(number: int) -> tuple[int, int]:
    return len(HEAD + b"".join(LINES[:number])), number


@pytest.mark.parametrize(
    ("cursor", "number"),
    [
        ({}, 0),
        ({"0": 8}, 0),
        ({"0": 9}, 1),
        ({"0": 12, "labels/0": 2}, 1),
        ({"0": 12, "labels/0": 3}, 3),  # the block without ranges is learned with it
        ({"0": 12, "labels/0": 3, "1": 1}, 3),
        ({"0": 99, "labels/0": 99, "1": 2}, 4),
    ],
)
def test_journal_position_names_the_next_block(
    journal: Journal, again: Journal, cursor: Cursor, number: int
) -> None:
    assert journal.position(cursor) == at(number)
    assert list(again.go_on(at(number))) == ENTRIES[number:]
    assert again.position(cursor) == at(number)  # and so after it has been read again
    assert again.write({"2": (0, 1)}, False) == 4
    assert again.position(cursor) == at(number)


def test_journal_position_moves_while_reading_again(journal: Journal, again: Journal) -> None:
    entries = again.go_on(at(1))
    assert next(entries) == ENTRIES[1]
    assert again.position({"0": 9}) == at(1)
    assert again.position({"0": 12, "labels/0": 3}) == at(2)
    assert next(entries) == ENTRIES[2]
    assert again.position({"0": 12, "labels/0": 3}) == at(3)


@pytest.mark.parametrize("kept", range(len(LINES[3])))
def test_journal_cut_in_a_line_goes_on(journal: Journal, again: Journal, kept: int) -> None:
    """The block of that line was learned by nobody."""
    journal.close()
    whole = HEAD + b"".join(LINES[:3])
    journal.path.write_bytes(whole + LINES[3][:kept])
    assert list(again.go_on(at(1))) == ENTRIES[1:3]
    assert again.path.read_bytes() == whole
    assert again.write(*BLOCKS[3]) == 3
    assert again.path.read_bytes() == whole + LINES[3]


@pytest.mark.parametrize("kept", [0, 1, len(HEAD) - 1])
def test_journal_cut_in_its_first_line_has_not_begun(
    tmp_path: Path, again: Journal, kept: int
) -> None:
    (tmp_path / "journal.jsonl").write_bytes(HEAD[:kept])
    assert not again.begun
    again.begin(START, {"0": 9})
    assert again.path.read_bytes() == HEAD.replace(b"null", b'{"0":9}')


def test_journal_missing_raises(again: Journal) -> None:
    assert not again.begun


def test_journal_begun_anew_replaces_the_old(journal: Journal, again: Journal) -> None:
    again.begin({"0": 1}, None)
    assert again.path.read_bytes() == b'{"start":{"0":1},"stop":null,"fingerprint":{}}\n'
    assert again.write({"0": (1, 2)}, False) == 0
    assert again.position({"0": 1})[1] == 0


@pytest.mark.parametrize(
    "line",
    [
        b"hello\n",
        b"\xff\xfe\n",
        b"\n",
        b"[]\n",
        b"7\n",
        b'{"block":1}\n',
        b'{"ranges":{}}\n',
        b'{"block":1,"ranges":[]}\n',
        b'{"block":1,"ranges":{"0":5}}\n',
        b'{"block":1,"ranges":{"0":[5]}}\n',
    ],
)
def test_journal_with_a_foreign_line_raises(journal: Journal, again: Journal, line: bytes) -> None:
    journal.close()
    journal.path.write_bytes(HEAD + LINES[0] + line + LINES[2])
    with pytest.raises(JobError, match=r"journal\.jsonl: a line is not the one expected .*restore"):
        list(again.go_on(None))


@pytest.mark.parametrize("line", [b"hello\n", b"[]\n", b"{}\n", b'{"start":{}}\n', b'{"stop":1}\n'])
def test_journal_with_a_foreign_first_line_raises(
    tmp_path: Path, again: Journal, line: bytes
) -> None:
    (tmp_path / "journal.jsonl").write_bytes(line)
    with pytest.raises(JobError, match=r"journal\.jsonl: a line is not the one expected .*restore"):
        again.head()


@pytest.mark.parametrize("keep", ["nothing", "less", "half a line"])
def test_journal_shorter_than_the_checkpoint_says_raises(
    journal: Journal, again: Journal, keep: str
) -> None:
    """The machine lost what was not on the disk, or somebody took it away: blocks that were learned
    in part cannot be known again."""
    journal.close()
    offset, number = at(3)
    whole = journal.path.read_bytes()
    journal.path.write_bytes(
        {"nothing": b"", "less": HEAD, "half a line": whole[: offset - 4]}[keep]
    )
    with pytest.raises(JobError, match=r"journal\.jsonl"):
        list(again.go_on((offset, number)))


def test_journal_replaced_by_another_raises(journal: Journal, again: Journal) -> None:
    """A position that is no beginning of a line, or of the line of another block."""
    for offset, number in [(at(1)[0] + 3, 1), (at(1)[0], 2)]:
        with pytest.raises(JobError, match=r"journal\.jsonl"):
            list(again.go_on((offset, number)))


def test_journal_missing_for_a_checkpoint_raises(again: Journal) -> None:
    with pytest.raises(JobError, match=r"journal\.jsonl"):
        list(again.go_on((10, 1)))


def test_journal_sync_flushes_to_the_disk(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.fstat(fd).st_ino))
    journal.sync()
    assert synced == [journal.path.stat().st_ino]
    journal.close()
    journal.sync()  # nothing is open: nothing is to be done
    assert len(synced) == 1


steps = st.lists(st.tuples(st.sampled_from(["0", "1", "labels/0"]), st.integers(0, 4)), max_size=4)


@given(st.lists(st.tuples(steps, st.booleans()), max_size=12), st.data())
def test_journal_position_is_the_oldest_unlearned_block(
    tmp_path_factory: pytest.TempPathFactory,
    blocks: list[tuple[list[tuple[str, int]], bool]],
    data: st.DataObject,
) -> None:
    """Many blocks open, as of micro-batches that are larger than they."""
    with closing(Journal(tmp_path_factory.mktemp("journal"))) as journal:
        _position(journal, blocks, data)


def _position(
    journal: Journal, blocks: list[tuple[list[tuple[str, int]], bool]], data: st.DataObject
) -> None:
    journal.begin({}, None)
    next_: Cursor = {}
    written: list[Ranges] = []
    for moves, ends in blocks:
        ranges = {}
        for name, n in moves:
            if n:
                ranges[name] = (next_.get(name, 0), next_.get(name, 0) + n)
        next_ |= {name: after for name, (_, after) in ranges.items()}
        journal.write(ranges, ends)
        written.append(ranges)
    cursor: Cursor = {}
    for _ in range(4):  # it only moves on
        for name, after in next_.items():
            cursor[name] = data.draw(st.integers(cursor.get(name, 0), after))
        open_ = [
            number
            for number, ranges in enumerate(written)
            if any(cursor[name] < after for name, (_, after) in ranges.items())
        ]
        offset, number = journal.position(cursor)
        lines = journal.path.read_bytes().splitlines(keepends=True)
        assert number == (open_[0] if open_ else len(written))
        assert offset == sum(map(len, lines[: 1 + number]))
    entries = [json.loads(line)["block"] for line in journal.path.read_bytes().splitlines()[1:]]
    assert entries == list(range(len(written)))
