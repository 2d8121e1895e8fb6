"""TLS, SASL, OAuth and access lists of a real broker, by both libraries; refusals are one line."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any

import pytest

from streams.core.errors import StreamError
from streams.core.live_stream import BrokerUnavailableError
from streams.kafka.clients import timeouts
from streams.kafka.clients.access import Access
from streams.kafka.clients.errors import kafka_python_errors, surface_connection_errors
from streams.kafka.clients.factory import create_consumer, create_producer
from streams.kafka.clients.libraries import import_kafka_python
from streams.kafka.clients.producer import ProducerRecord
from streams.kafka.records import TopicPartition
from tests.support.kafka44 import Kafka44, apache_kafka_44
from tests.support.tokens import CLIENT, SECRET, token_endpoint

# kafka-python leaves the sockets of a connection that was refused to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

OAUTH = (
    "oauthbearer.sasl.jaas.config="
    "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required "
    'unsecuredLoginStringClaim_sub="broker";'
)
ACCESS_LISTS = (
    *("--set", "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
    *("--set", f"super.users=User:ANONYMOUS;User:writer;User:{CLIENT}"),
    *("--set", "sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER"),
    *("--set", f"listener.name.sasl_plaintext.{OAUTH}"),
    *("--set", f"listener.name.sasl_ssl.{OAUTH}"),
)
NAMES = {
    "kafka-python": {
        "user": "sasl_plain_username",
        "password": "sasl_plain_password",
        "ca": "ssl_cafile",
        "certificate": "ssl_certfile",
        "key": "ssl_keyfile",
    },
    "confluent-kafka": {
        "user": "sasl_username",
        "password": "sasl_password",
        "ca": "ssl_ca_location",
        "certificate": "ssl_certificate_location",
        "key": "ssl_key_location",
    },
}


@pytest.fixture(params=[*NAMES])
def library(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def kafka() -> Iterator[Kafka44]:
    with apache_kafka_44(None, *ACCESS_LISTS) as kafka:
        kafka.create("t")
        kafka.send("t", [b"x"])
        yield kafka


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeouts, "BROKER_TIMEOUT_S", 3.0)
    monkeypatch.setattr(timeouts, "SEND_TIMEOUT_S", 4.0)


class Client:
    """Reads and sends with one library, with options by their common names."""

    def __init__(self, library: str, kafka: Kafka44) -> None:
        self.library, self.kafka = library, kafka

    def options(self, listener: str, **options: Any) -> dict[str, Any]:
        names = NAMES[self.library]
        named = {names.get(name, name): value for name, value in options.items()}
        return {"security_protocol": listener} | named

    def read(self, listener: str, topic: str = "t", group: str = "", **options: Any) -> Any:
        """Return the first values of a topic; with ``group``, as a member of it."""
        servers = options.pop("servers", None) or self.kafka.bootstrap[listener]
        settings = self.options(listener, **options)
        with closing(create_consumer(self.library, servers, group or "g", settings)) as consumer:
            partitions = consumer.partitions_for_topic(topic)
            if group:
                consumer.subscribe([topic], lambda assigned: dict.fromkeys(assigned, 0))
            else:
                consumer.assign(dict.fromkeys(partitions, 0))
            end = time.monotonic() + 20
            while time.monotonic() < end:
                for batch in consumer.poll(0.5, 10):
                    return batch.values
        raise AssertionError("nothing came")

    def send(self, listener: str, topic: str = "t", **options: Any) -> list[int]:
        servers = options.pop("servers", None) or self.kafka.bootstrap[listener]
        settings = self.options(listener, **options)
        with closing(create_producer(self.library, servers, settings)) as producer:
            return producer.send([ProducerRecord(topic, 0, b"k", b"v", {})])


@pytest.fixture
def client(library: str, kafka: Kafka44) -> Client:
    return Client(library, kafka)


def refusal(call: Callable[[], Any]) -> str:
    """Return the line that a call fails with, within seconds, and that is no outage."""
    begun = time.monotonic()
    with pytest.raises(StreamError) as error:
        call()
    assert time.monotonic() - begun < 15
    assert not isinstance(error.value, BrokerUnavailableError), error.value
    line = str(error.value)
    assert "\n" not in line
    assert "<Kafka" not in line
    return line


@pytest.mark.parametrize(
    ("mechanism", "listener"),
    [
        ("PLAIN", "SASL_SSL"),
        ("SCRAM-SHA-256", "SASL_PLAINTEXT"),
        ("SCRAM-SHA-512", "SASL_SSL"),
        pytest.param("PLAIN", "SASL_PLAINTEXT", marks=pytest.mark.soak),
        pytest.param("SCRAM-SHA-256", "SASL_SSL", marks=pytest.mark.soak),
        pytest.param("SCRAM-SHA-512", "SASL_PLAINTEXT", marks=pytest.mark.soak),
    ],
)
def test_sasl_is_spoken_and_a_wrong_password_named(
    client: Client, kafka: Kafka44, mechanism: str, listener: str
) -> None:
    login = {
        "sasl_mechanism": mechanism,
        "user": "writer",
        "password": kafka.said["users"]["writer"],
    }
    if listener == "SASL_SSL":
        login["ca"] = kafka.said["ca"]
    assert client.read(listener, **login)[0] == b"x"
    if listener == "SASL_PLAINTEXT":
        # kafka-python drops the broker's answer; a busy machine may see its closed connection late.
        wrong = {**login, "password": "no"}
        tries = (refusal(lambda: client.read(listener, **wrong)) for _ in range(3))
        assert any(f"authentication failed ({mechanism}, user 'writer')" in line for line in tries)


def test_connection_error_is_the_refusal_not_the_last_timeout() -> None:
    """The last attempt of kafka-python has too little time left for an answer."""
    node = "<KafkaConnection node_id=bootstrap-0 broker_version=(4, 3) (disconnected)>"
    refused = f"{node}: Connection lost: [Error 58] SaslAuthenticationFailedError: no such user"
    late = f"{node}: Connection lost: [Error 7] RequestTimedOutError: timed out after 118 ms"
    access = Access("127.0.0.1:9092", "SASL_PLAINTEXT", "PLAIN", "reader")
    library = import_kafka_python()

    def connect() -> None:
        with kafka_python_errors(library, access), surface_connection_errors():
            for message in (refused, late):
                logging.getLogger("kafka").error(message)
            raise library.errors.KafkaTimeoutError("Unable to bootstrap")

    with pytest.raises(StreamError) as raised:
        connect()
    line = "127.0.0.1:9092: authentication failed (PLAIN, user 'reader'): no such user"
    assert str(raised.value) == f"stream.client: {line}"


def test_sasl_wrong_password_of_a_producer_is_named(client: Client) -> None:
    login = {"sasl_mechanism": "PLAIN", "user": "writer", "password": "no"}
    line = refusal(lambda: client.send("SASL_PLAINTEXT", **login))
    assert "authentication failed (PLAIN, user 'writer')" in line


@pytest.mark.soak
def test_tls_with_a_client_certificate_is_spoken(library: str) -> None:
    with apache_kafka_44(None, "--set", "ssl.client.auth=required") as kafka:
        kafka.create("t")
        kafka.send("t", [b"x"])
        client, said = Client(library, kafka), kafka.said
        own = {"certificate": said["client_certificate"], "key": said["client_key"]}
        assert client.read("SSL", ca=said["ca"], **own) == [b"x"]
        assert client.send("SSL", ca=said["ca"], **own) == []
        with pytest.raises(StreamError):
            client.read("SSL", ca=said["ca"])


def test_tls_unknown_ca_is_named(client: Client) -> None:
    for call in (client.read, client.send):
        line = refusal(lambda call=call: call("SSL"))  # type: ignore[misc]
        assert "TLS: the certificate of the broker is not trusted" in line


def test_plaintext_to_a_port_of_tls_hints_at_the_protocol(client: Client, kafka: Kafka44) -> None:
    servers = kafka.bootstrap["SSL"]
    for call in (client.read, client.send):
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailableError, match=r"state client\.security_protocol"):
            call("PLAINTEXT", servers=servers)
        assert time.monotonic() - begun < 15


@contextmanager
def silent_port() -> Iterator[str]:
    """Yield the address of a port that accepts connections and never answers."""
    connections: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("listener", ["PLAINTEXT", pytest.param("SSL", marks=pytest.mark.soak)])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_silent_port_is_given_up_within_seconds(
    client: Client, kafka: Kafka44, listener: str
) -> None:
    options = {"ca": kafka.said["ca"]} if listener == "SSL" else {}
    with silent_port() as servers:
        for call in (client.read, client.send):
            begun = time.monotonic()
            with pytest.raises(BrokerUnavailableError, match="no answer from Kafka"):
                call(listener, servers=servers, **options)
            assert time.monotonic() - begun < 15


def allow(kafka: Kafka44, kind: str, name: str, right: str) -> None:
    from confluent_kafka.admin import (
        AclBinding,
        AclOperation,
        AclPermissionType,
        ResourcePatternType,
        ResourceType,
    )

    binding = AclBinding(
        ResourceType[kind],
        name,
        ResourcePatternType.LITERAL,
        "User:reader",
        "*",
        AclOperation[right],
        AclPermissionType.ALLOW,
    )
    for done in kafka.admin.create_acls([binding]).values():
        done.result(20)


def test_rights_that_are_missing_are_named(client: Client, kafka: Kafka44, library: str) -> None:
    login: Mapping[str, Any] = {
        "sasl_mechanism": "SCRAM-SHA-256",
        "user": "reader",
        "password": kafka.said["users"]["reader"],
    }
    topic = f"t-{library}"
    kafka.create(topic)
    kafka.send(topic, [b"x"])
    allow(kafka, "GROUP", "g", "READ")  # kafka-python looks it up before it reads
    who = "authorization failed: user 'reader' has no right"
    read = lambda: client.read("SASL_PLAINTEXT", topic, **login)  # noqa: E731
    assert f"{who} READ on the topic '{topic}'" in refusal(read)
    allow(kafka, "TOPIC", topic, "DESCRIBE")
    assert f"{who} READ on the topic '{topic}'" in refusal(read)
    allow(kafka, "TOPIC", topic, "READ")
    assert read() == [b"x"]
    join = lambda: client.read("SASL_PLAINTEXT", topic, group="team", **login)  # noqa: E731
    assert f"{who} READ on the consumer group 'team'" in refusal(join)
    send = lambda: client.send("SASL_PLAINTEXT", topic, **login)  # noqa: E731
    assert who in refusal(send)  # on the cluster, or on the topic
    allow(kafka, "TOPIC", f"other-{library}", "WRITE")  # the right on any topic is enough for that
    assert f"{who} WRITE on the topic '{topic}'" in refusal(send)
    missing = lambda: client.read("PLAINTEXT", "nowhere")  # noqa: E731
    assert "there is no topic 'nowhere'" in refusal(missing)


def test_oauth_tokens_come_from_the_endpoint(client: Client) -> None:
    with token_endpoint() as (url, asked):
        login = {
            "sasl_mechanism": "OAUTHBEARER",
            "sasl_oauthbearer_client_id": CLIENT,
            "sasl_oauthbearer_client_secret": SECRET,
            "sasl_oauthbearer_token_endpoint_url": url,
            "sasl_oauthbearer_scope": "kafka",
        }
        assert client.read("SASL_PLAINTEXT", **login)[0] == b"x"
        assert client.send("SASL_PLAINTEXT", **login) == []
        assert asked
        assert all("grant_type=client_credentials" in body for body in asked)
        assert all("scope=kafka" in body for body in asked)
        wrong = {**login, "sasl_oauthbearer_client_secret": "no"}
        line = refusal(lambda: client.read("SASL_PLAINTEXT", **wrong))
        assert f"authentication failed (OAUTHBEARER, user '{CLIENT}')" in line


@pytest.mark.parametrize(
    "codec", ["snappy", *(pytest.param(c, marks=pytest.mark.soak) for c in ("gzip", "lz4", "zstd"))]
)
def test_codecs_are_read(kafka: Kafka44, library: str, codec: str) -> None:
    topic = f"{codec}-{library}"
    kafka.create(topic)
    kafka.send(topic, [b"x" * 200], compression_type=codec)
    if codec == "snappy" and library == "kafka-python":
        pytest.importorskip("snappy", reason="pip install 'everlearn[codecs]'")
    assert Client(library, kafka).read("PLAINTEXT", topic) == [b"x" * 200]


def test_codec_that_is_not_installed_is_named(
    kafka: Kafka44, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kafka import codec

    kafka.create("packed")
    kafka.send("packed", [b"x" * 200], compression_type="snappy")
    monkeypatch.setattr(codec, "snappy", None)
    line = refusal(lambda: Client("kafka-python", kafka).read("PLAINTEXT", "packed"))
    assert line.startswith("stream.library: messages are compressed with snappy")
    assert "everlearn[codecs]" in line


@pytest.mark.soak
def test_group_protocol_of_the_broker_shares_partitions(kafka: Kafka44) -> None:
    """Two members by KIP-848 read each partition once, and a third partition's owner changes."""
    kafka.create("shared", 4)
    for partition in range(4):
        kafka.send("shared", [b"%d" % partition], partition=partition)
    options = {"group_protocol": "consumer"}
    positions: dict[TopicPartition, int] = {}
    read: list[bytes | None] = []

    def join(consumer: Any) -> set[TopicPartition]:
        mine: set[TopicPartition] = set()

        def on_assign(assigned: list[TopicPartition]) -> dict[TopicPartition, int]:
            mine.clear()
            mine.update(assigned)
            return {partition: positions.get(partition, 0) for partition in assigned}

        consumer.subscribe(["shared"], on_assign)
        return mine

    def poll(consumer: Any) -> None:
        for batch in consumer.poll(0.2, 100):
            positions[batch.partition] = int(batch.offset[-1]) + 1
            read.extend(batch.values)

    servers = kafka.servers
    with closing(create_consumer("confluent-kafka", servers, "kip848", options)) as one:
        first = join(one)
        end = time.monotonic() + 30
        while len(read) < 4 and time.monotonic() < end:
            poll(one)
        with closing(create_consumer("confluent-kafka", servers, "kip848", options)) as two:
            second = join(two)
            while (len(first), len(second)) != (2, 2) and time.monotonic() < end:
                poll(one)
                poll(two)
            assert not first & second
            for partition in range(4):
                kafka.send("shared", [b"%d" % (10 + partition)], partition=partition)
            while len(read) < 8 and time.monotonic() < end:
                poll(one)
                poll(two)
    assert sorted(int(value or b"") for value in read) == [0, 1, 2, 3, 10, 11, 12, 13]


def test_group_protocol_names_the_library_that_has_it() -> None:
    with pytest.raises(StreamError, match="state library: confluent-kafka"):
        create_consumer("kafka-python", "127.0.0.1:9", "g", {"group_protocol": "consumer"})
