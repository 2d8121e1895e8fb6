"""Poison among good messages: no crash, every bad one dead with its reason, every good one learned.

What is good is decided by an oracle of its own here: the ``json`` module and plain checks.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import uuid
import warnings
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.dead_letters.file_writer import read_dead_letters

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka import KafkaProducer
    from kafka.admin import KafkaAdminClient, NewTopic

T0 = 1_700_000_000
AHEAD = 86_400.0
LARGEST = 10_000
CLASSES = ("even", "odd")
PARTITIONS = 3

# ---- the oracle


class Bad(Exception):  # noqa: N818 (it is what it is)
    """Why a message is bad."""


def parsed(value: bytes | None) -> dict[str, Any]:
    """The object that a message is, by the standard library and stricter than it."""
    if value is None:
        raise Bad("no value")
    if len(value) > LARGEST:
        raise Bad("too large")
    try:
        text = value.decode()
        found = json.loads(text, parse_constant=refuse, parse_float=real, parse_int=whole)
    except RecursionError:
        raise Bad("too deep") from None
    except ValueError:
        raise Bad("no JSON") from None
    for string in re.findall(r'"(?:[^"\\]|\\.)*"', text):
        try:
            json.loads(string).encode()
        except UnicodeEncodeError:
            raise Bad("half a surrogate pair") from None
    if type(found) is not dict:
        raise Bad("no object")
    return found


def refuse(name: str) -> Any:
    raise Bad(f"{name} is not JSON")


def real(text: str) -> float:
    if math.isinf(number := float(text)):
        raise Bad("a number beyond all doubles")
    return number


def whole(text: str) -> int:
    if math.isinf(float(text)):
        raise Bad("a number beyond all doubles")
    return int(text)


def is_number(value: Any) -> bool:
    return type(value) in (int, float)


def identity(value: Any) -> int:
    if type(value) is int and -(2**63) <= value < 2**63:
        return value
    if type(value) is float and value.is_integer() and abs(value) < 2**53:
        return int(value)
    raise Bad("id")


def moment(value: Any) -> float:
    if is_number(value):
        return float(value)
    if type(value) is str:
        try:
            found = float(value)
        except ValueError:
            try:
                when = datetime.fromisoformat(value)
            except ValueError:
                raise Bad("time") from None
            found = when.replace(tzinfo=when.tzinfo or UTC).timestamp()
        if math.isfinite(found):
            return found
    raise Bad("time")


def event_id(value: bytes | None, sent: float) -> int:
    """The id of a good event. Raises ``Bad``."""
    found = parsed(value)
    id_ = identity(found.get("id"))
    if moment(found.get("t")) > sent + AHEAD:
        raise Bad("time")
    if not {"a", "b", "c", "v"} & found.keys():
        raise Bad("no feature")
    for name in ("a", "b"):
        if found.get(name) is not None and not is_number(found[name]):
            raise Bad(name)
    if found.get("c") is not None and type(found["c"]) not in (str, bool, int, float):
        raise Bad("c")
    vector = found.get("v")
    if vector is None:
        return id_
    if type(vector) is not list or len(vector) != 3 or not all(map(is_number, vector)):
        raise Bad("v")
    return id_


def label_id(value: bytes | None) -> int:
    """The id of a good label. Raises ``Bad``."""
    found = parsed(value)
    id_ = identity(found.get("id"))
    if found.get("y") not in CLASSES:
        raise Bad("y")
    return id_


# ---- poison


def event(i: int) -> dict[str, Any]:
    return {"id": i, "t": T0 + i / 10, "a": i / 7, "b": -i, "c": f"c{i % 5}", "v": [i, 0.5, -1]}


def label(i: int) -> dict[str, Any]:
    return {"id": i, "y": CLASSES[i % 2]}


ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 7, 1.5, -0.0, 1e308, 5e-324, 2**53 + 1, 2**63 - 1, 2**63, -(2**63)),
    *(2**64, 10**30, 10**400, "", "1", "x", "NaN", "soon", "2024-05-01T12:00:00Z", "\x00"),
    "\U0001f600",
    *([], [1], [1, 2, 3], [1, 2, "3"], [1, 2, True], [[1, 2, 3]], {}, {"id": 1}, 1e18, -1e18, 9e15),
)  # fmt: skip


def mutated(rng: random.Random, good: dict[str, Any], other: bytes) -> bytes | None:
    """A message with something done to it; it may be good still."""
    value = json.dumps(good).encode()
    name = rng.choice([*good])

    def field(text: str) -> bytes:
        """With other text in place of a field's value."""
        parts = {k: json.dumps(v) for k, v in good.items()} | {name: text}
        return ("{" + ", ".join(f'"{k}": {v}' for k, v in parts.items()) + "}").encode()

    def flipped() -> bytes:
        some = bytearray(value)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            some[rng.randrange(len(some))] ^= 1 << rng.randrange(8)
        return bytes(some)

    def spliced() -> bytes:
        return value[: rng.randrange(len(value))] + other[rng.randrange(len(other)) :]

    def inserted() -> bytes:
        at = rng.randrange(len(value))
        return value[:at] + rng.randbytes(rng.choice((1, 1, 2, 16))) + value[at:]

    def renamed() -> bytes:
        return json.dumps({(k.upper() if k == name else k): v for k, v in good.items()}).encode()

    def nested() -> bytes:
        depth = rng.choice((2, 50, 400, 1100, 3000))
        left, right = rng.choice((("[", "]"), ('{"a":', "}")))
        return field(left * depth + "1" + right * depth)

    def padded() -> bytes:
        room = LARGEST - len(json.dumps(good | {"pad": ""}))
        size = rng.choice((0, 10, room - 1, room, room + 1, LARGEST, 5 * LARGEST))
        return json.dumps(good | {"pad": "x" * size}).encode()

    tricks: tuple[Callable[[], bytes | None], ...] = (
        flipped,
        spliced,
        inserted,
        renamed,
        nested,
        padded,
        lambda: value[: rng.randrange(len(value))],
        lambda: value + value,
        lambda: b" \n\t" + value + b"\r ",
        lambda: json.dumps(good | {name: rng.choice(ODD)}).encode(),
        lambda: json.dumps(good | {"t": T0 + rng.choice((1e5, 1e6, 9e15, -1e9))}).encode(),
        lambda: json.dumps({k: v for k, v in good.items() if k != name}).encode(),
        lambda: json.dumps([good]).encode(),
        lambda: json.dumps(good).encode("utf-16"),
        lambda: b"\xef\xbb\xbf" + value,
        lambda: field(rng.choice(("NaN", "Infinity", "-Infinity", "01", "1.", "+1", "0x1", "1_0"))),
        lambda: field(rng.choice(("9" * 400, "-" + "9" * 300, "1e999", "1e-999", "-0", "1E+2"))),
        lambda: field(f'"{rng.choice(("ud800", "ud83d ", "u0000", "q", "ud83d", ""))}"'),
        lambda: field('"\\' + rng.choice(("ud800", "ud83d\\ude00", "u0000", "q", "udc00")) + '"'),
        lambda: value[:-1] + f', "{name}": {json.dumps(rng.choice(ODD))}}}'.encode(),
        lambda: value.replace(b'"', b"'"),
        lambda: b"",
        lambda: None,
        lambda: rng.randbytes(rng.choice((1, 9, 100))),
    )
    return rng.choice(tricks)()


SCALAR = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**70), max_value=2**70)
    | st.floats()
    | st.text(max_size=8)
)
ANY = st.recursive(
    SCALAR, lambda s: st.lists(s, max_size=4) | st.dictionaries(st.text(), s, max_size=3)
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "id": st.integers(-9, 9) | ANY,
        "t": st.floats(0, 4e9) | ANY,
        "a": st.floats() | ANY,
        "b": st.integers() | ANY,
        "c": st.text() | ANY,
        "v": st.lists(st.floats() | SCALAR, min_size=2, max_size=4) | ANY,
    },
)
LABELS = st.fixed_dictionaries(
    {}, optional={"id": st.integers(-9, 9) | ANY, "y": st.sampled_from(CLASSES) | ANY}
)


def invented(of: st.SearchStrategy[Any], n: int) -> list[bytes]:
    """About n messages that hypothesis thinks of."""
    found: list[bytes] = []
    texts = st.tuples(of | ANY, st.booleans()).map(
        lambda x: json.dumps(x[0], ensure_ascii=x[1]).encode("utf-8", "surrogatepass")
    )

    @settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[*HealthCheck],
    )
    @given(st.one_of(texts, texts, texts, st.binary(max_size=60)))
    def think(value: bytes) -> None:
        found.append(value)

    think()
    return found


# ---- the run


class Sent(NamedTuple):
    """A message: whether it is a label, its partition and offset, its bytes and time (seconds)."""

    label: bool
    partition: int
    offset: int
    value: bytes | None
    time: float


def made(n: int, seed: int) -> list[tuple[bool, bytes | None]]:
    """n messages, about half of them fuzzed; (is it a label, its bytes)."""
    rng = random.Random(seed)
    thought = [(False, value) for value in invented(EVENTS, n // 12)]
    thought += [(True, value) for value in invented(LABELS, n // 24)]
    out: list[tuple[bool, bytes | None]] = []
    i = 0
    other = json.dumps(event(0)).encode()
    while len(out) + len(thought) < n:
        for is_label, good in ((False, event(i)), (True, label(i))):
            value: bytes | None = json.dumps(good).encode()
            if rng.random() < 0.45:
                value = mutated(rng, good, other)
            elif value is not None:
                other = value
            out.append((is_label, value))
        i += 1
    for message in thought:
        out.insert(rng.randrange(len(out)), message)
    return out


def send(servers: str, messages: list[tuple[bool, bytes | None]]) -> tuple[str, str, list[Sent]]:
    """Sends them in their order; the topics, and where each came to stand."""
    mark = uuid.uuid4().hex[:8]
    topics = (f"ev-{mark}", f"lab-{mark}")
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=servers, max_request_size=1 << 24, linger_ms=5)
    futures = []
    for i, (is_label, value) in enumerate(messages):
        moment = T0 * 1000 + i
        futures.append(
            producer.send(
                topics[is_label],
                value,
                b"key",
                partition=i % PARTITIONS,
                timestamp_ms=moment,
            )
        )
    producer.flush()
    last = len(messages)
    for topic in topics:  # alone in its batch, so that the broker tells where the topic ends
        for partition in range(PARTITIONS):
            messages.append((topic == topics[1], b"the last"))
            sent = producer.send(
                topic, b"the last", b"key", partition=partition, timestamp_ms=T0 * 1000 + last
            )
            sent.get(30)
            futures.append(sent)
    producer.close()
    found = []
    for i, ((is_label, value), future) in enumerate(zip(messages, futures, strict=True)):
        told = future.get(30)
        time = (T0 * 1000 + min(i, last)) / 1000
        found.append(Sent(is_label, told.partition, told.offset, value, time))
    return *topics, found


def check(broker: str, everlearn: Callable[..., Any], tmp_path: Path, n: int, seed: int) -> None:
    events, labels, sent = send(broker, made(n, seed))
    sent = [message for message in sent if message.value is not None]  # tombstones count apart
    ids: dict[int, list[Sent]] = {}
    answered = set()
    bad: dict[tuple[bool, int, int], Sent] = {}
    for message in sent:
        try:
            if message.label:
                answered.add(label_id(message.value))
            else:
                ids.setdefault(event_id(message.value, message.time), []).append(message)
        except Bad:
            bad[message[:3]] = message
    job = {
        "name": "poison",
        "stream": {
            "kind": "kafka",
            "servers": broker,
            "topic": events,
            "features": {"numeric": ["a", "b"], "categorical": ["c"], "vector": {"v": 3}},
            "label": {"classes": [*CLASSES]},
            "labels": {"topic": labels, "id": "id", "label": "y"},
            "id": "id",
            "time": "t",
            "lateness": sys.float_info.max,
            "label_timeout_events": 10_000_000,
            "id_window": 10_000_000,
            "max_future_seconds": AHEAD,
            "max_bytes": LARGEST,
            "stop": "latest",
            "dead_letters": {"share": 1},
        },
        "learner": {"kind": "no-change"},
    }
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(job))
    everlearn("run", file, "--run-dir", tmp_path / "run")
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    dead = {
        (x.label, x.partition, x.offset): x
        for x in read_dead_letters(tmp_path / "run" / "dead.jsonl")
    }
    assert len(dead) == (tmp_path / "run" / "dead.jsonl").read_bytes().count(b"\n")  # each once
    # Of events with the same id one is learned, and the others are dead: which, their order says.
    doubles = {m[:3] for same in ids.values() if len(same) > 1 for m in same}
    wrong = [
        (m.value, dead[at].reason if at in dead else "alive")
        for m in sent
        if (at := m[:3]) not in doubles and (at in dead) != (at in bad)
    ]
    assert not wrong, wrong[:5]
    for same in ids.values():
        left = [message for message in same if message[:3] not in dead]
        assert len(left) == 1
        for message in same:
            if message is not left[0]:
                assert dead[message[:3]].reason.startswith("duplicate id ")
    assert set(dead) <= set(bad) | doubles
    for at, message in bad.items():
        assert dead[at].value == message.value
        assert dead[at].reason.isprintable()
        assert 0 < len(dead[at].reason) < 400
    fates = summary["fates"]
    learned = sum(id_ in answered for id_ in ids)
    assert fates["learned"] == learned
    assert fates["unlabelled"] == len(ids) - learned
    assert fates["dead"] == sum(not x.label for x in dead.values())
    assert summary["events"] == sum(not message.label for message in sent)
    assert fates["expired"] == 0
    # The fuzz is worth its name: much is bad, much is good, and the reasons are of many kinds.
    assert len(bad) > 0.25 * n
    assert learned > 0.15 * n
    firsts = Counter(x.reason.split(" holds ")[0][:12] for x in dead.values())
    assert len(firsts) >= 9, firsts


def test_run_fuzzed_messages_are_dead_good_ones_learned(
    broker: str, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    check(broker, everlearn, tmp_path, 3_000, seed=1)


@pytest.mark.soak
def test_run_many_fuzzed_messages_are_dead_good_ones_learned(
    broker: str, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    check(broker, everlearn, tmp_path, 220_000, seed=2)
