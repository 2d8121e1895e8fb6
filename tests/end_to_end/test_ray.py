"""Runs on Ray, with real processes that die: what comes out is what comes out of a plain process,
and nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.demo.client import Client, elec2_events
from streams.core.batch import Batch
from streams.core.live_stream import ranges_of
from streams.core.stream import Cursor, Stream
from streams.files.config import RecordedConfig
from streams.files.stream import FileStream
from tests.support.ray_processes import ACTORS, ROOT, Driver, Place, until

pytest.importorskip("ray")
WriteJob = Callable[..., Path]
Summary = dict[str, Any]


@pytest.fixture
def job(write_job: WriteJob) -> Path:
    """A job with all that there is: probes, once-seen events, aggregates, tracking and serving."""
    return write_job(
        stream={"aggregates": [{"by": "period", "mean": "label", "count": True}]},
        checkpoint={"every_events": 1000},
        evaluate={"probes": {"share": 0.05}, "once_seen": {"share": 0.05}},
        track={"uri": "sqlite:///mlflow.db", "every_events": 500},
        serve={"port": 0},
    )


@pytest.fixture
def local(
    everlearn: Callable[..., Any], summary: Callable[[Path], Summary], tmp_path: Path
) -> Callable[..., Summary]:
    """What the same job gives in this process, neither tracked nor served."""

    def run(job: Path, *more: object, name: str = "local") -> Summary:
        plain = yaml.safe_load(job.read_text())
        for part in ("track", "serve"):
            plain.pop(part, None)
        file = job.with_name(f"plain-{job.name}")
        file.write_text(yaml.safe_dump(plain))
        everlearn("run", file, "--run-dir", tmp_path / name, *more)
        return summary(tmp_path / name)

    return run


def same(whole: Summary, broken: Summary) -> None:
    assert broken["state_digest"] == whole["state_digest"]
    assert broken["fates"] == whole["fates"]
    assert broken["cursor"] == whole["cursor"]
    assert broken["events"] == whole["events"]
    ours, theirs = (
        {k: v for k, v in run["metrics"].items() if k.startswith("online/")}
        for run in (whole, broken)
    )
    assert theirs == ours
    probes = [run["metrics"].get("stability/probes") for run in (whole, broken)]
    assert probes[0] == probes[1]
    assert (probes[0] is not None) == (whole["fates"]["probe"] > 0)
    once = [run["metrics"].get("retention/once_seen") for run in (whole, broken)]
    assert once[0] == once[1]
    assert broken["runner"] == "ray"


def steps(file: Path) -> list[int]:
    return [json.loads(line)["step"] for line in file.read_text().splitlines()]


def tracked_once(database: Path, summary: Summary, folder: Path, said: str = "") -> None:
    """MLflow has one run, ended, with each row of each file of metrics exactly once."""
    with sqlite3.connect(database) as db:
        runs = db.execute("select run_uuid, status from runs").fetchall()
        found = db.execute("select key, step from metrics where key not like 'system/%'").fetchall()
    db.close()
    assert runs == [(summary["mlflow_run_id"], "FINISHED")], said
    wanted = []
    for name in ("metrics.jsonl", "served.jsonl", "stability.jsonl"):
        for text in (folder / name).read_text().splitlines():
            row = json.loads(text)
            wanted += [(k, row["step"]) for k in row["metrics"] if not k.startswith("system/")]
    assert sorted(found) == sorted(wanted)


@contextmanager
def asking(driver: Driver, rate: float = 50.0) -> Iterator[Client]:
    """Keeps asking the model that a run serves."""
    url = driver.says(r"serving at (http://\S+)/predict")[1]
    client = Client(url, rate, elec2_events())
    assert client.ready(lambda: not driver.running()), driver.err
    client.start()
    try:
        yield client
    finally:
        client.stop()


def test_a_run_on_ray_is_the_local_run_and_leaves_nothing(
    job: Path,
    local: Callable[..., Summary],
    summary: Callable[[Path], Summary],
    database: Path,
    place: Place,
    tmp_path: Path,
) -> None:
    shutil.copy(database, place.path / "mlflow.db")
    folder = tmp_path / "ray"
    tracking = ("--set", f"track.uri=sqlite:///{place.path}/mlflow.db")
    driver = place.run(job, folder, "--rate", 10_000, *tracking)
    with asking(driver) as client:
        driver.ends()
    assert place.left() == []
    whole, found = local(job), summary(folder)
    same(whole, found)
    assert found["finished"]
    assert found["fates"]["probe"] > 2000
    assert driver.out.splitlines()[0].strip() == "elec2, seed 7"  # the table, and nothing else
    assert driver.out.splitlines()[-2].split()[1:4] == ["state", "digest", "│"]
    served = found["metrics"]
    assert len(set(client.asked.version)) > 10
    assert len(client.asked.took) >= served["served/requests"] > 100  # the last come too late
    assert served["served/failed"] == 0
    assert 0.6 < served["served/accuracy"] <= 1
    assert served["served/scored"] > 100
    tracked_once(place.path / "mlflow.db", found, folder, driver.err)
    assert steps(folder / "metrics.jsonl")[:3] == [512, 1024, 1504]
    assert not (folder / "error.log").exists()


def killed(driver: Driver, chance: random.Random, order: list[str], longest: float) -> None:
    """Kills the process of each of these actors, whenever it is up, and drawn moments apart."""
    for name in order:
        victim = until(lambda name=name: driver.actor(name))
        time.sleep(chance.uniform(0.0, longest))
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            victim.wait(10)
        assert driver.running(), driver.err


@pytest.mark.soak
def test_whoever_is_killed_the_run_is_the_same(
    job: Path,
    local: Callable[..., Summary],
    summary: Callable[[Path], Summary],
    database: Path,
    place: Place,
    tmp_path: Path,
) -> None:
    shutil.copy(database, place.path / "mlflow.db")
    folder = tmp_path / "ray"
    tracking = ("--set", f"track.uri=sqlite:///{place.path}/mlflow.db")
    chance = random.Random(1)
    order = sorted(ACTORS)
    chance.shuffle(order)
    driver = place.run(job, folder, "--rate", 2000, *tracking)
    with asking(driver) as client:
        until(lambda: (folder / "checkpoints").exists() and any((folder / "checkpoints").iterdir()))
        killed(driver, chance, order, 1.0)
        driver.says("the trainer died; it goes on from its newest checkpoint")
        until(lambda: driver.actor("trainer"))
        time.sleep(chance.uniform(1.0, 3.0))
        assert driver.running(), driver.err
        driver.kill()
    assert len(client.asked.took) > 100
    driver = place.run(job, folder, "--resume", *tracking).ends()
    assert "resumed after" in driver.err
    whole, found = local(job), summary(folder)
    same(whole, found)
    assert found["resumed_from"]
    assert found["metrics"]["served/requests"] > 0  # of the run before it was killed
    rows = steps(folder / "metrics.jsonl")
    assert rows == sorted(set(rows))
    tracked_once(place.path / "mlflow.db", found, folder, driver.err)


def free_ports(count: int) -> list[int]:
    """Ports that are free just now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


class Cluster(Place):
    """A Ray cluster on loopback that asks for a token: a head that runs nothing of ours, and one
    worker with four CPUs. Neither was started where our packages are."""

    def __init__(self) -> None:
        super().__init__(RAY_AUTH_MODE="token")
        self.token = self.path / "token"
        self.token.write_text("0123456789abcdef" * 4)
        self.environment["RAY_AUTH_TOKEN_PATH"] = str(self.token)
        head, dashboard, client = free_ports(3)
        self.address = f"127.0.0.2:{head}"
        self.dashboard = f"http://127.0.0.1:{dashboard}"
        self.head = self._node(
            *("--head", "--port", head, "--node-ip-address", "127.0.0.2", "--num-cpus", 0),
            *("--dashboard-host", "127.0.0.1", "--dashboard-port", dashboard),
            *("--ray-client-server-port", client, "--temp-dir", self.path),
        )
        self.worker = self.start_worker()

    def start_worker(self) -> Driver:
        where = ("--node-ip-address", "127.0.0.3", "--num-cpus", 4)
        return self._node("--address", self.address, *where)

    def _node(self, *options: object) -> Driver:
        """Starts a node that nobody but us reaches, and waits for it."""
        small = ("--object-store-memory", 100_000_000)
        ports = ("--min-worker-port", 0, "--max-worker-port", 0, "--dashboard-agent-listen-port", 0)
        command = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block")
        node = Driver(self, *command, *options, *small, *ports, cwd=self.path)
        until(lambda: "Ray runtime started" in node.out + node.err or not node.running())
        assert node.running(), node.out + node.err
        return node

    def run(self, job: Path, folder: Path, *more: object, **environment: str) -> Driver:
        return super().run(job, folder, "--address", self.address, *more, **environment)

    def actors(self) -> list[str]:
        """What of ours, or of what serves, is alive in the cluster."""
        found = [process.name() for process in self.processes("ray::")]
        return [
            name for name in found if not name.startswith(("ray::IDLE", "ray::Dash", "ray::Run"))
        ]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


@pytest.mark.soak
def test_signals_stop_it_with_a_checkpoint_and_it_goes_on(
    write_job: WriteJob,
    local: Callable[..., Summary],
    summary: Callable[[Path], Summary],
    place: Place,
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    job, folder = write_job(checkpoint={"every_events": 1000}), tmp_path / "ray"
    driver = place.run(job, folder, "--rate", 5)
    until(lambda: driver.actor("trainer") and (folder / "job.yaml").exists())
    time.sleep(1)  # it waits for the next block
    began = time.monotonic()
    os.killpg(driver.process.pid, signal.SIGINT)  # all of them, as from a terminal
    driver.ends(1, 20)
    assert time.monotonic() - began < 10
    assert "stopped before the end of the stream; continue with the same command" in driver.line
    assert summary(folder)["events"] < 100
    assert place.left() == []

    driver = cluster.run(job, folder, "--rate", 3000, "--resume")
    until(lambda: len(list((folder / "checkpoints").glob("0*"))) > 2)
    driver.process.terminate()
    driver.ends(1, 20)
    assert 1000 < summary(folder)["events"] < 45_312

    driver = cluster.run(job, folder, "--rate", 5, "--resume")
    driver.says("resumed after")
    began = time.monotonic()
    driver.process.send_signal(signal.SIGINT)
    driver.says("stopping: a checkpoint is written first")
    driver.process.send_signal(signal.SIGINT)
    driver.ends(1, 20)
    assert time.monotonic() - began < 10
    until(lambda: cluster.actors() == [], 15)

    whole = local(job)
    cluster.run(job, folder, "--resume").ends()
    same(whole, summary(folder))


def test_submitted_with_its_packages_to_a_cluster_that_has_none(
    write_job: WriteJob,
    local: Callable[..., Summary],
    summary: Callable[[Path], Summary],
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    tree = tmp_path / "tree"
    hidden = shutil.ignore_patterns("__pycache__", "results")
    for name in ("streams", "buffers", "learners", "pipeline"):
        shutil.copytree(ROOT / name, tree / name, ignore=hidden)
    shutil.copy(ROOT / "everlearn.py", tree)
    # This module is in the copy alone: a process that imports it has its packages from there.
    (tree / "learners" / "sent.py").write_text(
        "from learners.rehearsal.replay import Replay\n\n\nclass Sent(Replay):\n    pass\n"
    )
    plain = write_job()
    job = yaml.safe_load(plain.read_text())
    job["learner"]["kind"] = "learners.sent:Sent"
    (tree / "job.yaml").write_text(yaml.safe_dump(job))
    folder = tmp_path / "ray"
    ours = (
        sys.executable,
        "-m",
        "pipeline",
        "run",
        "job.yaml",
        "--runner",
        "ray",
        "--run-dir",
        folder,
    )
    driver = Driver(
        cluster,
        *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit"),
        *("--address", cluster.dashboard, "--working-dir", tree, "--", *ours),
        cwd=tmp_path,
    )
    driver.ends()
    assert "succeeded" in driver.out + driver.err
    same(local(plain), summary(folder))
    until(lambda: [name for name in cluster.actors() if "Job" not in name] == [], 15)


LEARNER = """
import os
from pathlib import Path

from learners.rehearsal.replay import Replay

from .names import EVENT

HERE = Path(__file__).parent.name


class Mine(Replay):
    def learn(self, batch):
        from mine.parts.late import happens  # only now, on a worker

        assert HERE == "mine"
        super().learn(batch)
        happens(self.version, EVENT)
"""


def write_package(folder: Path, happens: str = "pass", kind: str = "mine") -> Path:
    """A package of a user's beside the job file; ``happens`` once 20 micro-batches are learned."""
    package = folder / kind
    (package / "parts").mkdir(parents=True)
    (package / "parts" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "names.py").write_text("EVENT = 20\n")
    (package / "learner.py").write_text(LEARNER)
    late = f"def happens(version, event):\n    if version == event:\n        {happens}\n"
    (package / "parts" / "late.py").write_text(f"import os\n\n\n{late}")
    return package


@pytest.fixture
def mine(write_job: WriteJob, tmp_path: Path) -> Path:
    """A job whose learner is a user's own, in a package beside it."""
    folder = tmp_path / "home"
    folder.mkdir()
    job = yaml.safe_load(write_job().read_text())
    job["name"] = "mine"
    job["learner"]["kind"] = "mine.learner:Mine"
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


@pytest.mark.soak
def test_a_users_package_on_a_cluster_that_loses_a_machine(
    mine: Path,
    write_job: WriteJob,
    local: Callable[..., Summary],
    summary: Callable[[Path], Summary],
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    write_package(mine.parent)
    folder = tmp_path / "ray"
    changes = ("checkpoint.every_events=1000", f"serve={{port: {free_ports(1)[0]}}}")
    driver = cluster.run(mine, folder, "--rate", 5000, *(a for c in changes for a in ("--set", c)))
    with asking(driver) as client:
        until(lambda: len(list((folder / "checkpoints").glob("0*"))) > 1)
        of_worker = psutil.Process(cluster.worker.process.pid).children()
        next(process for process in of_worker if process.name() == "raylet").kill()
        driver.says("the trainer died; it goes on from its newest checkpoint")
        cluster.worker = cluster.start_worker()
        driver.says("resumed after")
        seen = len(client.asked.took)
        until(lambda: len(client.asked.took) > seen + 10)
        driver.ends()
    same(local(write_job()), summary(folder))
    until(lambda: cluster.actors() == [], 15)
    assert cluster.head.running()


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        ("raise ValueError('it fell')", r"ValueError: it fell \(details: \S+error.log\)"),
        pytest.param(
            "os._exit(3)",
            r"the trainer died \d times without getting any further",
            marks=pytest.mark.soak,
        ),
    ],
)
def test_a_learner_that_fails_on_the_way(
    mine: Path, happens: str, said: str, cluster: Cluster, tmp_path: Path
) -> None:
    write_package(mine.parent, happens)
    began = time.monotonic()
    driver = cluster.run(mine, tmp_path / "ray", "--set", "checkpoint.every_events=320")
    driver.ends(1)
    assert time.monotonic() - began < 110  # of which most is for the cluster, and others
    assert re.search(said, driver.line), driver.err
    assert "--resume" in driver.line
    until(lambda: cluster.actors() == [], 15)


def test_what_the_worker_lacks_is_named(mine: Path, cluster: Cluster, tmp_path: Path) -> None:
    write_package(mine.parent)
    (tmp_path / "apart").mkdir()
    (tmp_path / "apart" / "only_here.py").touch()
    (mine.parent / "mine" / "names.py").write_text("import only_here\n\nEVENT = 20\n")
    driver = cluster.run(mine, tmp_path / "ray", PYTHONPATH=f"{tmp_path / 'apart'}").ends(2)
    assert "No module named 'only_here'" in driver.line or "module 'only_here'" in driver.line
    assert "worker" in driver.line
    assert len(driver.lines) == 1


@pytest.mark.soak
def test_two_of_one_name_and_more_than_there_is_room_for(
    write_job: WriteJob, cluster: Cluster, tmp_path: Path
) -> None:
    job = write_job()
    first = cluster.run(job, tmp_path / "first", "--rate", 100)
    until(lambda: first.actor("trainer"))
    second = cluster.run(job, tmp_path / "second").ends(2)
    assert "a run of job 'elec2' is going on in this cluster already" in second.line
    other = ("--set", "name=other")
    held = cluster.run(job, tmp_path / "first", *other).ends(2)
    assert f"{tmp_path / 'first'} is held by another run" in held.line
    many = ("--set", "serve={replicas: 50}")
    large = cluster.run(job, tmp_path / "large", *other, *many).ends(2)
    assert "the job asks for 6.6 CPUs, and the Ray cluster has 4" in large.line
    assert len(second.lines) == len(held.lines) == 1
    assert first.running()  # nobody was harmed
    first.process.terminate()
    first.ends(1, 20)
    until(lambda: cluster.actors() == [], 15)


@pytest.mark.soak
def test_a_stream_that_breaks_off(
    write_job: WriteJob, cluster: Cluster, tmp_path: Path, summary: Callable[[Path], Summary]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    table = pq.read_table(ROOT / "streams" / "data" / "elec2.parquet")
    pq.write_table(table[:9000], folder / "a.parquet")
    pq.write_table(table[9000:], folder / "b.parquet")
    whole = (folder / "b.parquet").read_bytes()
    job = write_job(stream={"path": f"{folder}/*.parquet"}, checkpoint={"every_events": 1000})
    driver = cluster.run(job, tmp_path / "ray", "--rate", 4000)
    until(lambda: any((tmp_path / "ray" / "checkpoints").glob("0*")))
    (folder / "b.parquet").write_bytes(whole[:5000])
    driver.ends(1)
    assert re.search(
        r"b.parquet.* The state after \d+ events is kept; when mended, go", driver.line
    )
    (folder / "b.parquet").write_bytes(whole)
    cluster.run(job, tmp_path / "ray", "--resume").ends()
    assert summary(tmp_path / "ray")["events"] == 45_312


@pytest.mark.parametrize(
    "given", ["none", "missing", pytest.param("another", marks=pytest.mark.soak)]
)
def test_without_the_token(
    write_job: WriteJob, cluster: Cluster, tmp_path: Path, given: str
) -> None:
    (tmp_path / "another").write_text("f" * 64)
    path = {"RAY_AUTH_TOKEN_PATH": f"{tmp_path / given}"}
    changes = {"RAY_AUTH_MODE": "disabled"} if given == "none" else path
    driver = cluster.run(write_job(), tmp_path / "ray", **changes).ends(2, 30)
    assert (
        f"the Ray cluster at {cluster.address} asks for a token: set RAY_AUTH_MODE" in driver.line
    )
    # Before it may stand what Ray itself says of each try.


def odd_stream(folder: Path) -> dict[str, Any]:
    """Events of which some are dead, and labels in a file of their own that come later."""
    folder.mkdir()
    rows = range(12_000)
    bad = {i for i in rows if i % 97 == 0 or 5000 <= i < 5040}
    events = [f"{i},{i},{'no number' if i in bad else i % 7},{i * 31 % 11}" for i in rows]
    labels = [f"{i},{'ab'[i % 7 > i * 31 % 11]},{i + 40 + i % 13}" for i in rows if i % 50]
    (folder / "events.csv").write_text("\n".join(["id,time,u,v", *events, ""]))
    (folder / "labels.csv").write_text("\n".join(["id,y,time", *labels, ""]))
    return {
        "kind": "recorded",
        "path": f"{folder}/events.csv",
        "id": "id",
        "time": "time",
        "features": {"numeric": ["u", "v"]},
        "labels": {"path": f"{folder}/labels.csv", "id": "id", "label": "y", "time": "time"},
        "label_timeout_events": 200,
    }


@pytest.mark.soak
def test_an_odd_stream_whose_source_is_killed_in_parts_and_warm(
    write_job: WriteJob,
    local: Callable[..., Summary],
    summary: Callable[[Path], Summary],
    cluster: Cluster,
    tmp_path: Path,
) -> None:
    job = write_job()
    made = yaml.safe_load(job.read_text())
    made |= {"name": "odd", "stream": odd_stream(tmp_path / "data")}
    made["checkpoint"] = {"every_events": 1000}
    made["learner"]["scale"] = True
    job.write_text(yaml.safe_dump(made))
    folder = tmp_path / "ray"
    whole = local(job)
    assert whole["fates"]["dead"] > 150
    assert whole["fates"]["expired"] > 200

    part = local(job, "--max-events", 3000, name="part")
    driver = cluster.run(job, folder, "--max-events", 3000).ends()
    same(part, summary(folder))

    driver = cluster.run(job, folder, "--resume", "--rate", 2000)
    for _ in range(2):
        victim = until(lambda: driver.actor("source"))
        time.sleep(1)
        victim.kill()
        victim.wait(10)
    driver.says("the source died; reading goes on after the last block that came")
    driver.ends()
    same(whole, summary(folder))

    checkpoint = tmp_path / "part" / "checkpoints" / f"{part['events']:015d}"
    warm = local(job, "--warm-from", checkpoint, name="warm")
    cluster.run(job, tmp_path / "ray-warm", "--warm-from", checkpoint).ends()
    same(warm, summary(tmp_path / "ray-warm"))
    assert warm["state_digest"] != whole["state_digest"]


# Without Ray


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> FileStream:
    settings = odd_stream(tmp_path_factory.mktemp("odd") / "data")
    return FileStream(RecordedConfig.model_validate(settings), Path())


def rest(stream: Stream, cursor: Cursor, size: int) -> tuple[list[Any], list[Any]]:
    """All events that are left, the dead ones among them, and all labels, in their order; of each
    label, the position of the event that it comes before."""
    events: list[Any] = []
    labels: list[Any] = []
    for block in stream.read(cursor, size):
        here = [
            ("event", i, y) for i, y in zip(block.ids.tolist(), block.offset.tolist(), strict=True)
        ]
        if block.arrivals is not None:
            a = block.arrivals
            positions = [*block.offset.tolist(), -1]
            labels += [
                (i, block.classes[y], offset, positions[before] if before < len(block) else None)
                for i, y, offset, before in zip(
                    a.ids.tolist(),
                    a.y.tolist(),
                    a.offset.tolist(),
                    a.insert_before.tolist(),
                    strict=True,
                )
            ]
        events += here + [("dead", d.offset, d.reason) for d in block.dead]
    return sorted(events, key=lambda e: e[1]), labels


@pytest.mark.soak
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 20))
@example(1000, 40, 5)  # the cut lies in a row of dead events
@example(5000, 97, 0)
@settings(max_examples=6)
def test_reading_goes_on_after_any_block(
    odd: FileStream, size: int, other: int, blocks: int
) -> None:
    cursor: Cursor = {}
    came: list[Batch] = []
    for block in islice(odd.read({}, size), blocks):
        came.append(block)
        cursor = cursor | {name: after for name, (_, after) in ranges_of(block).items()}
    events, labels = rest(odd, {}, 4096)
    left, to_come = rest(odd, cursor, other)
    read = sum(len(block) + len(block.dead) for block in came)
    known = sum(len(block.arrivals) for block in came if block.arrivals is not None)
    assert left == events[read:]
    assert [label[:3] for label in to_come] == [label[:3] for label in labels[known:]]


# What is found before Ray is started


def test_what_cannot_be_reached_or_served(
    write_job: WriteJob, everlearn: Callable[..., Any], tmp_path: Path
) -> None:
    job, (closed,) = write_job(), free_ports(1)

    def refused(*args: object) -> str:
        outcome = everlearn(
            "run", job, "--runner", "ray", "--run-dir", tmp_path / "r", *args, code=2
        )
        assert len(outcome.err.splitlines()) == 1, outcome.err
        return outcome.line

    assert f"no Ray cluster can be reached at 127.0.0.1:{closed}" in refused(
        "--address", f"127.0.0.1:{closed}"
    )
    assert "HOST:PORT of the head of a Ray cluster is wanted" in refused("--address", "cluster")
    assert "ray job submit" in refused("--address", f"ray://127.0.0.1:{closed}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"serve: nothing can listen at 127.0.0.1:{port}" in refused(
            "--set", f"serve.port={port}"
        )
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        outcome = everlearn("run", job, "--runner", "ray", "--run-dir", folder, code=2)
        assert f"cannot write in {folder}" in outcome.line


def test_without_ray_one_line_says_how_to_get_it(
    write_job: WriteJob, place: Place, tmp_path: Path
) -> None:
    packages = place.path / "packages"
    packages.mkdir()
    for entry in Path(pytest.__file__).parents[1].iterdir():
        if not entry.name.startswith("ray"):
            (packages / entry.name).symlink_to(entry)
    python = (sys.executable, "-S", "-m", "pipeline", "run", write_job())
    driver = Driver(place, *python, "--runner", "ray", PYTHONPATH=f"{ROOT}:{packages}").ends(2, 30)
    assert "Ray is not installed: pip install 'everlearn[ray]'" in driver.line
    assert len(driver.lines) == 1


@pytest.mark.soak
def test_25_kills_at_random_moments(
    job: Path,
    local: Callable[..., Summary],
    summary: Callable[[Path], Summary],
    database: Path,
    place: Place,
    tmp_path: Path,
) -> None:
    whole, chance, kills = local(job), random.Random(7), 0
    for turn in range(10):
        shutil.copy(database, place.path / f"{turn}.db")
        folder = tmp_path / f"ray{turn}"
        more = ["--set", f"track.uri=sqlite:///{place.path}/{turn}.db"]
        driver = place.run(job, folder, "--rate", 1200, *more)
        for _ in range(2):
            driver.says("serving at")
            for _ in range(chance.randrange(1, 4)):
                time.sleep(chance.uniform(0.0, 3.0))
                victim = driver.actor(chance.choice(sorted(ACTORS)))
                if victim is not None and driver.running():
                    with suppress(psutil.Error):
                        victim.kill()
                        kills += 1
            time.sleep(chance.uniform(0.0, 4.0))
            if driver.running():
                driver.kill()
                kills += 1
            driver = place.run(job, folder, "--rate", 3000, "--resume", *more)
        driver.ends(seconds=240)
        same(whole, summary(folder))
        rows = steps(folder / "metrics.jsonl")
        assert rows == sorted(set(rows))
        tracked_once(place.path / f"{turn}.db", summary(folder), folder)
        if kills >= 25:
            break
    assert kills >= 25
