"""A token endpoint of OAuth over HTTP; its tokens are without a signature."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CLIENT, SECRET = "trainer", "s3cret"


def unsigned_token(subject: str, life_s: float = 60.0) -> str:
    """Return a JSON web token without a signature, as a broker without an issuer takes it."""
    now = time.time()
    claims = {"sub": subject, "iat": int(now), "exp": int(now + life_s), "scope": []}
    parts = [json.dumps(part).encode() for part in ({"alg": "none", "typ": "JWT"}, claims)]
    return ".".join([base64.urlsafe_b64encode(p).decode().rstrip("=") for p in parts] + [""])


@contextmanager
def token_endpoint() -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of a token endpoint, and a list that gets what was asked of it."""
    asked: list[str] = []
    login = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            asked.append(body)
            known = self.headers.get("Authorization") == f"Basic {login}"
            answer = {"error": "invalid_client"}
            if known:
                token = unsigned_token(CLIENT)
                answer = {"access_token": token, "token_type": "Bearer", "expires_in": 60}  # type: ignore[dict-item]
            data = json.dumps(answer).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/token", asked
        finally:
            server.shutdown()
            thread.join()
