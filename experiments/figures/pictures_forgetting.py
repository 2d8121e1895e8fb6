"""Draw the pictures of the forgetting dashboard from real runs (needs Chromium).

They go to docs/images. Of experiments/jobs/forgetting.yaml, by fine-tuning and with replay:
forgetting-mlflow.png, both on MLflow's page, and forgetting-report.png, the report of each. Of
experiments/jobs/elec2-live.yaml: forgetting-elec2.png, its report.

    python experiments/figures/pictures_forgetting.py [--runs DIR]
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import screenshot
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parents[2]
JOBS = ROOT / "experiments" / "jobs"
IMAGES = ROOT / "docs" / "images"
NETWORK = "model: {kind: mlp, hidden: [100]}, optimizer: {kind: sgd, lr: 0.05}"
RUNS = {
    "finetune": ["forgetting.yaml", "--set", f"learner={{kind: finetune, {NETWORK}}}"],
    "replay": ["forgetting.yaml"],
    "elec2": ["elec2-live.yaml", "--set", "serve=null"],
}
METRICS = ["online/(accuracy|accuracy_window|log_loss_window)$"]
METRICS += ["stability/(acc|forgetting|wc_acc)$"]
SIZE = (1500, 1090)
WIDTH, HEAD = 760, 60  # of a report, and of the name above it


def run(folder: Path) -> None:
    """Run the jobs that the folder lacks, at the rate of a live stream, tracked in its
    ``mlflow.db``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, (job, *more) in RUNS.items():
        if (folder / name / "summary.json").exists():
            continue
        words = ["run", str(JOBS / job), "--run-dir", name, "--rate", "1000", *more]
        command = [sys.executable, str(ROOT / "everlearn.py"), *words]
        subprocess.run(command, cwd=folder, check=True)


def both(page: screenshot.BrowserPage, address: str) -> bytes:
    """Draw the charts of both runs on the page of their experiment."""
    experiment = screenshot.newest_run(address, "forgetting").rpartition("/runs/")[0]
    port = address.rpartition(":")[2]
    how = "compareRunsMode=CHART&workflowType=machine_learning"
    url = f"http://{screenshot.HOST}:{port}/#{experiment}/runs?{how}"
    return screenshot.draw(page, url, METRICS)[0]


def told(page: screenshot.BrowserPage, report: Path) -> Image.Image:
    """Draw the part of a report about forgetting."""
    page.ask("Page.navigate", url=report.resolve().as_uri())
    plots = "[...document.querySelectorAll('.plot')]"
    drawn = f"{plots}.length && {plots}.every(plot => plot.querySelector('.main-svg'))"
    screenshot.until("the figures of the report", 60, lambda: page.value(drawn))
    heads = "[...document.querySelectorAll('h2')]"
    top, bottom = (
        page.value(f"{heads}.find(h => h.textContent == '{name}').getBoundingClientRect().top")
        for name in ("Stability", "Plasticity")
    )
    clip = {"x": 0, "y": top - 10, "width": WIDTH, "height": bottom - top - 20, "scale": 1}
    taken = page.ask("Page.captureScreenshot", format="png", clip=clip, captureBeyondViewport=True)
    return picture(base64.b64decode(taken["data"]))


def picture(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("RGB")


def side_by_side(parts: dict[str, Image.Image]) -> Image.Image:
    """Join parts of the same height, each below its name."""
    height = HEAD + max(part.height for part in parts.values())
    whole = Image.new("RGB", (WIDTH * len(parts), height), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(28)
    for i, (name, part) in enumerate(parts.items()):
        pen.text((WIDTH * i + 20, 16), name, "#222222", font)
        whole.paste(part, (WIDTH * i, HEAD))
    return whole


def save(image: Image.Image, name: str) -> None:
    out = IMAGES / name
    # A page has few colours: a palette makes the file a third.
    image.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
    print(f"{out}: {image.width} x {image.height}, {out.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, help="keeps the runs; those there are not run again")
    given = parser.parse_args()
    program = next(filter(None, map(shutil.which, screenshot.BROWSERS)), None)
    if program is None:
        parser.error("no Chromium on the path; on Debian: apt-get install chromium")
    with tempfile.TemporaryDirectory() as fresh:
        folder = given.runs or Path(fresh)
        run(folder)
        with (
            screenshot.mlflow(folder / "mlflow.db") as address,
            screenshot.chromium(program, *SIZE) as page,
        ):
            save(picture(both(page, address)), "forgetting-mlflow.png")
        with screenshot.chromium(program, WIDTH, 1000) as page:
            told_of = {name: told(page, folder / name / "report.html") for name in RUNS}
    save(told_of.pop("elec2"), "forgetting-elec2.png")
    save(side_by_side(told_of), "forgetting-report.png")


if __name__ == "__main__":
    main()
