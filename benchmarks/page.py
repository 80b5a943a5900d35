"""The page of a study of the size of studies/paper.yaml: bytes, and time to open in Chromium.

Three models, five seeds, all items of nine attributes, an alignment with its control; the answers
are drawn, which changes nothing of what the page holds. Needs BBQ (``make study`` fetches it),
Chromium and playwright.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "tests")]

import argparse
import subprocess
import tempfile
import time

import numpy as np
import pandas as pd
import yaml
from browser import opened
from spillover.data import bbq

MODELS, SEEDS = 3, 5
SNAKEMAKE = (sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bbq", default=ROOT / "resources" / "bbq", help="the published files")
    parser.add_argument("--repetitions", type=int, default=3)
    arguments = parser.parse_args()
    pins = yaml.safe_load((ROOT / "resources" / "bbq.yaml").read_text())
    files = bbq.read_folder(arguments.bbq, pins)
    names = [name for name in pins["attributes"] if not name.startswith("Race_x_")]
    metadata = files["additional_metadata.csv"]
    items = pd.concat(
        [
            bbq.prepare_items(files[f"{name}.jsonl"], metadata, name, pins["attributes"][name])
            for name in names
        ]
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "study.yaml").write_text(
            yaml.safe_dump(study(folder, items, names, Path(arguments.bbq).resolve()))
        )
        started = time.perf_counter()
        subprocess.run(
            [*SNAKEMAKE, "--configfile", "study.yaml", "--cores", "2", "--quiet", "all"],
            cwd=folder,
            check=True,
        )
        print(f"{len(items)} items, tables and page in {time.perf_counter() - started:.0f} s")
        page = folder / "results" / "paper-sized" / "findings.html"
        print(f"{page.stat().st_size / 1e6:.1f} MB")
        for _ in range(arguments.repetitions):
            with opened(page) as shown:
                print(f"opened in {shown.evaluate(LOADED) / 1000:.2f} s")


LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def study(folder: Path, items: pd.DataFrame, names: list[str], data: Path) -> dict:
    """Write drawn answers; the study that reads them."""
    rng = np.random.default_rng(0)
    wrong = (items["gold"] + 1) % 3
    runs = ["base"] + [f"{name}/seed{n}" for name in ("gender", "shuffled") for n in range(SEEDS)]
    models = {}
    for number in range(MODELS):
        files = {}
        for run in runs:
            path = folder / f"{number}-{run.replace('/', '-')}.csv"
            predicted = items["gold"].where(rng.random(len(items)) < 0.6, wrong)
            answers = items[["attribute", "example_id"]].assign(predicted_option=predicted)
            answers.to_csv(path, index=False)
            files[run] = str(path)
        models[f"model-{number}"] = {"predictions": files}
    return {
        "study": "paper-sized",
        "bbq": {"type": "path", "path": str(data)},
        "models": models,
        "alignments": {
            "gender": {"target": ["Gender_identity"], "control": "shuffled"},
            "shuffled": {"target": ["Gender_identity"]},
        },
        "seeds": list(range(SEEDS)),
        "evaluation": {"attributes": names},
    }


if __name__ == "__main__":
    main()
