"""OAuth tokens for kafka-python, by the client credentials grant; librdkafka has its own."""

from __future__ import annotations

import base64
import json
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any

from streams.core.errors import StreamError, one_line

PREFIX = "sasl_oauthbearer_"
"""Of the options, which have librdkafka's names for both libraries."""
OPTIONS = tuple(
    f"{PREFIX}{name}" for name in ("client_id", "client_secret", "token_endpoint_url", "scope")
)
TIMEOUT_S = 10.0
RENEW_AT = 0.8
"""Share of a token's life after which another one is asked for."""


def without_oauth(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of kafka-python, with a token provider for those of OAuth.

    Raises:
        StreamError: one of them is missing.
    """
    options = {name.replace(".", "_"): value for name, value in options.items()}
    stated = {name: options.pop(name) for name in OPTIONS if name in options}
    options.pop(f"{PREFIX}method", None)  # librdkafka's: oidc
    if not stated:
        return options
    for name in OPTIONS[:3]:
        if name not in stated:
            raise StreamError(f"stream.client.{name}: state it, as the other options of OAuth are")
    from kafka.net.sasl.oauth import AbstractTokenProvider

    class Provider(AbstractTokenProvider):  # type: ignore[misc]
        """Returns a token for as long as it is valid."""

        def __init__(self, tokens: ClientCredentials) -> None:
            super().__init__()
            self._tokens = tokens

        def token(self) -> str:
            return self._tokens.token()

    endpoint = str(stated[OPTIONS[2]])
    tokens = ClientCredentials(
        endpoint, str(stated[OPTIONS[0]]), str(stated[OPTIONS[1]]), stated.get(OPTIONS[3])
    )
    return options | {"sasl_oauth_token_provider": Provider(tokens)}


class TokenError(ValueError):
    """The token endpoint gives no token: the message says why."""


class ClientCredentials:
    """Asks an endpoint for tokens, and keeps each for most of its life."""

    def __init__(self, endpoint: str, client: str, secret: str, scope: str | None) -> None:
        self._endpoint = endpoint
        self._login = base64.b64encode(f"{client}:{secret}".encode()).decode()
        self._scope = scope
        self._token, self._renew_at = "", 0.0
        self._lock = threading.Lock()

    def token(self) -> str:
        """Return a valid token. Raise ``TokenError``."""
        with self._lock:
            if time.monotonic() >= self._renew_at:
                answer = self._ask()
                self._token = str(answer["access_token"])
                life = RENEW_AT * float(answer.get("expires_in", 60))
                self._renew_at = time.monotonic() + life
            return self._token

    def _ask(self) -> dict[str, Any]:
        form = {"grant_type": "client_credentials"}
        if self._scope:
            form["scope"] = self._scope
        request = urllib.request.Request(
            self._endpoint,
            urllib.parse.urlencode(form).encode(),
            {"Authorization": f"Basic {self._login}", "Accept": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                found: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            error.close()
            raise TokenError(f"Sasl: {self._endpoint}: HTTP {error.code}") from None
        except (OSError, ValueError) as error:
            raise TokenError(f"Sasl: {self._endpoint}: {one_line(error)}") from None
        if "access_token" not in found:
            raise TokenError(f"Sasl: {self._endpoint} answers without access_token")
        return found
