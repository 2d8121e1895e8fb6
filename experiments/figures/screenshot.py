"""Draw docs/images/mlflow.png: the curves of a run on MLflow's own page.

    python experiments/figures/screenshot.py --db mlflow.db --experiment elec2 --metrics online/

Starts an MLflow server over a copy of the database, opens the newest run of the experiment in a
headless Chromium, waits until the charts are drawn, and stops both.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "mlflow.png"
# On localhost MLflow opens an assistant over the page; under another name it does not.
HOST = "mlflow.test"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-extensions",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-background-networking",
    "--disable-dev-shm-usage",  # a container has 64 MB there, and the page needs more
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    f"--host-resolver-rules=MAP {HOST} 127.0.0.1, MAP * ~NOTFOUND",  # the page asks nobody else
    # A headless browser has no mouse, and without one plotly draws its tools over every chart.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,"
    "availablePointerTypes=4",
    "--remote-debugging-pipe",
)


@contextlib.contextmanager
def started(command: list[str], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process in a group of its own, so that all its children can be stopped by its id."""
    process = subprocess.Popen(command, start_new_session=True, **how)
    try:
        yield process
    finally:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)


def until(what: str, seconds: float, ask: Callable[[], Any]) -> Any:
    """Return the first answer that is true. Exit after ``seconds`` without one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.2)
    sys.exit(f"screenshot: waited {seconds:.0f} s for {what}")


class BrowserPage:
    """A page of a headless Chromium.

    Chromium takes commands of the DevTools protocol as JSON, each ended by a zero byte, from its
    file descriptor 3, and answers on 4. That needs no port and no library, and the browser ends
    with this process.
    """

    def __init__(self, pipe: socket.socket) -> None:
        self.pipe = pipe
        self.read = b""
        self.sent = 0
        self.session: str | None = None
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Page.enable")

    def ask(self, method: str, **params: Any) -> Any:
        """Send one command and return its answer. Ignore events in between."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        self.pipe.sendall(json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.read:
                part = self.pipe.recv(1 << 20)
                if not part:
                    sys.exit("screenshot: the browser has ended; run it by hand to see why")
                self.read += part
            text, self.read = self.read.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self.sent:
                if "error" in answer:
                    sys.exit(f"screenshot: {method}: {answer['error']['message']}")
                return answer["result"]

    def value(self, script: str) -> Any:
        """Return the value of a JavaScript expression."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get(
            "value"
        )

    def picture(self) -> bytes:
        """Return the page as PNG."""
        return base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"])


CHARTS = "[...document.querySelectorAll('[data-testid=experiment-view-compare-runs-card]')]"
SEARCH = "document.querySelector('input[placeholder=\"Search metric charts\"]')"
SIDEBAR = "document.querySelector('[aria-label=\"Toggle sidebar\"]')"


@contextlib.contextmanager
def mlflow(database: Path) -> Iterator[str]:
    """Yield the address of an MLflow server over a copy: a server may change what it opens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("wb") as log:
        copy = Path(folder) / "mlflow.db"
        with (
            contextlib.closing(
                sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
            ) as old,
            contextlib.closing(sqlite3.connect(copy)) as new,
        ):
            try:
                old.backup(new)
            except sqlite3.Error as error:
                sys.exit(f"screenshot: {database}: {error}")
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--no-serve-artifacts"]
        command += ["--allowed-hosts", f"{HOST}:*,127.0.0.1:*"]
        command += ["--cors-allowed-origins", f"http://{HOST}:{port}"]
        command += ["--backend-store-uri", f"sqlite:///{copy}"]
        quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with started(
            command, cwd=folder, env=os.environ | quiet, stdout=log, stderr=log
        ) as process:
            address = f"http://127.0.0.1:{port}"

            def answers() -> bool:
                if process.poll() is not None:
                    sys.exit(f"screenshot: MLflow has ended:\n{Path(log.name).read_text()[-2000:]}")
                try:
                    return bool(call(f"{address}/health"))
                except OSError:
                    return False

            until("MLflow to answer", 90, answers)
            yield address


def call(url: str, body: Any = None) -> bytes:
    """Return the answer of the address."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    # No proxy that the environment names stands between us and our own machine.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(request, timeout=30) as answer:
        text: bytes = answer.read()
    return text


def newest_run(address: str, experiment: str) -> str:
    """Return the path of the page of the newest run of an experiment."""
    api = f"{address}/api/2.0/mlflow"
    found = json.loads(call(f"{api}/experiments/search", {"max_results": 1000}))
    ids = {e["name"]: e["experiment_id"] for e in found.get("experiments", [])}
    if experiment not in ids:
        sys.exit(f"screenshot: no experiment {experiment!r}; there are: {', '.join(ids)}")
    asked = {
        "experiment_ids": [ids[experiment]],
        "max_results": 1,
        "order_by": ["attributes.start_time DESC"],
    }
    runs = json.loads(call(f"{api}/runs/search", asked)).get("runs")
    if not runs:
        sys.exit(f"screenshot: experiment {experiment!r} has no run")
    return f"/experiments/{ids[experiment]}/runs/{runs[0]['info']['run_id']}/model-metrics"


@contextlib.contextmanager
def chromium(program: str, width: int, height: int) -> Iterator[BrowserPage]:
    """Yield a page of that size in a browser with an empty profile."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)

    def give() -> None:  # in the child: its files 3 and 4 are our pipe
        os.dup2(theirs.fileno(), 3)
        os.dup2(theirs.fileno(), 4)

    flags = [*FLAGS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *flags, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
        how: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        how["env"] = os.environ | {"TMPDIR": profile}  # it leaves sockets there
        # The pair has made sure that 3 and 4 are open here too, which pass_fds needs.
        with started(command, preexec_fn=give, pass_fds=(3, 4), **how):
            theirs.close()
            with ours:
                page = BrowserPage(ours)
                size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
                page.ask("Emulation.setDeviceMetricsOverride", **size)
                yield page
                with contextlib.suppress(OSError, SystemExit):
                    page.ask("Browser.close")  # its children leave with it


def draw(page: BrowserPage, url: str, metrics: list[str]) -> tuple[bytes, int]:
    """Draw the page of the charts. Return the picture and the number of charts."""
    page.ask("Page.navigate", url=url)
    until("the page of the charts", 60, lambda: page.value(f"!!{SEARCH} && !!{SIDEBAR}"))
    page.value(f"{SIDEBAR}.click()")  # the charts get its room
    if metrics:
        page.value(f"{SEARCH}.focus()")
        page.ask("Input.insertText", text="|".join(metrics))
        page.value(f"{SEARCH}.blur()")
    lines = f"{CHARTS}.map(chart => chart.querySelectorAll('.main-svg .trace').length)"
    before = b""

    def rests() -> bool:
        nonlocal before
        drawn = page.value(lines)
        last, before = before, page.picture()
        return bool(drawn) and all(drawn) and before == last

    until("charts to be drawn: is there a metric of that name?", 60, rests)
    return before, len(page.value(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--db", type=Path, default=Path("mlflow.db"), help="MLflow's SQLite file")
    parser.add_argument("--experiment", default="elec2")
    parser.add_argument("--metrics", nargs="*", default=[], help="patterns of names; default: all")
    parser.add_argument("--size", default="1500x1070", help="of the window, in pixels")
    parser.add_argument("--out", type=Path, default=PICTURE)
    given = parser.parse_args()
    size = re.fullmatch(r"(\d+)x(\d+)", given.size)
    if size is None:
        parser.error(f"--size is {given.size!r}; it looks like 1500x1000")
    if not given.db.is_file():
        parser.error(f"no file {given.db}; a job with track.uri sqlite:///mlflow.db writes one")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        parser.error("no Chromium on the path; on Debian: apt-get install chromium")
    with (
        mlflow(given.db) as address,
        chromium(program, int(size[1]), int(size[2])) as page,
    ):
        path = newest_run(address, given.experiment)
        port = address.rpartition(":")[2]
        # MLflow has two faces; this is the one for models.
        url = f"http://{HOST}:{port}/#{path}?workflowType=machine_learning"
        png, charts = draw(page, url, given.metrics)
    # A page has few colours: a palette makes the file a third.
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    image.save(given.out, optimize=True)
    print(f"{given.out}: {charts} charts, {given.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
