"""Who a client connects as, and what it says where a broker refuses it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from streams.core.errors import StreamError, one_line

CODECS = ("snappy", "lz4", "zstd")
_OBJECT = re.compile(r"<[A-Z]\w+ (?:[^<>]|<-)*>:?\s*")
"""The text of an object of kafka-python."""
_NAMES = (
    r"^(Connection lost: |Metadata refresh: failed |\[Error \d+\] (?=Sasl)|(Kafka|Sasl)\w*Error: )+"
)
"""The names of its errors, in front of what they say."""
_CA_OPTIONS = "ssl_cafile, with confluent-kafka ssl_ca_location"


class Access(NamedTuple):
    """How a client connects.

    Attributes:
        servers: ``host:port`` of brokers, separated by commas.
        protocol: PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL.
        mechanism: of SASL.
        user: of SASL; empty: another kind of name, or none.
    """

    servers: str
    protocol: str
    mechanism: str
    user: str

    @classmethod
    def of(cls, servers: str, options: Mapping[str, Any]) -> Access:
        """Return that of a client with these options, of either library."""
        stated = {name.replace(".", "_"): str(value) for name, value in options.items()}
        mechanism = stated.get("sasl_mechanism") or stated.get("sasl_mechanisms") or ""
        users = ("sasl_plain_username", "sasl_username", "sasl_oauthbearer_client_id")
        user = next((stated[name] for name in users if name in stated), "")
        return cls(servers, stated.get("security_protocol", "PLAINTEXT").upper(), mechanism, user)

    @property
    def _who(self) -> str:
        return f"user {self.user!r}" if self.user else "this client"

    def unauthenticated(self, cause: str) -> StreamError:
        about = f"{self.mechanism}, {self._who}" if self.mechanism else self._who
        return StreamError(
            f"stream.client: {self.servers}: authentication failed ({about}): {cause}"
        )

    def topic_refused(self, topic: str, right: str) -> StreamError:
        """Return the error for a topic that the user lacks a right on."""
        return self._unauthorized(f"has no right {right} on the topic {topic!r}")

    def group_refused(self, group: str) -> StreamError:
        return self._unauthorized(f"has no right READ on the consumer group {group!r}")

    def cluster_refused(self) -> StreamError:
        return self._unauthorized(
            "has no right on the cluster: a producer needs WRITE on a topic, or IDEMPOTENT_WRITE"
        )

    def _unauthorized(self, what: str) -> StreamError:
        return StreamError(
            f"stream.client: {self.servers}: authorization failed: {self._who} {what}: add it to "
            "the access list of the broker"
        )

    def hinted(self, cause: str) -> str:
        """Return the cause of an outage, with a remedy if it may be a wrong protocol."""
        if not re.search(_HINT, cause):
            return cause
        if self.protocol == "PLAINTEXT":
            return f"{cause}; where the broker wants TLS or SASL, state client.security_protocol"
        return f"{cause}; is the port one of {self.protocol}?"

    def diagnosed(self, cause: str) -> StreamError | None:
        """Return what a failed connection is due to, where its cause says that it is no outage."""
        if "ClusterAuthorizationFailed" in cause:
            return self.cluster_refused()
        sasl, tls = self.protocol.startswith("SASL"), self.protocol.endswith("SSL")
        if re.search("Sasl|SASL authentication|authentication fail", cause):
            return self.unauthenticated(_plain(cause))
        if tls and re.search("CERTIFICATE_VERIFY_FAILED|certificate verify failed", cause):
            return StreamError(
                f"stream.client: {self.servers}: TLS: the certificate of the broker is not trusted "
                f"({_plain(cause)}): name the file of its CA as {_CA_OPTIONS}"
            )
        if tls and re.search("UNEXPECTED_EOF|WRONG_VERSION_NUMBER|wrong version number", cause):
            return StreamError(
                f"stream.client: {self.servers}: TLS: the broker does not speak TLS at this port, "
                f"or refuses this client's certificate ({_plain(cause)})"
            )
        if sasl and "socket disconnected" in cause and "broker_version=(" in cause:
            # The library drops an answer that comes together with the end of the connection.
            return self.unauthenticated(
                "the broker closed the connection: the user or the password is wrong"
            )
        return None


_HINT = "socket disconnected|transport failure|RequestTimedOut|timed out"


def _plain(cause: str) -> str:
    """Return a message without the texts of objects."""
    text = _OBJECT.sub("", one_line(cause))
    return re.sub(_NAMES, "", text)


def plain_cause(error: BaseException | str) -> str:
    """Return why a connection failed, for a person."""
    return _plain(one_line(error))


def missing_codec(error: BaseException) -> StreamError:
    """Return the error for messages that no installed library decompresses."""
    text = str(error)
    codec = next((name for name in CODECS if name in text.lower()), text)
    return StreamError(
        f"stream.library: messages are compressed with {codec}, and no package that reads it is "
        "installed: pip install 'everlearn[codecs]'"
    )
