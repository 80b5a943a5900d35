"""Write docs/findings.md from the tables of the studies that come along: make findings.

Every number is read from a table. A study that has not been run is left out, and named.
"""

import importlib.metadata
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "workflow/scripts"))

from spillover.report import findings  # noqa: E402

PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
TITLES = {
    "matrix": "Aligned for each attribute: what happens to all",
    "trajectory": "Along training, and at other strengths",
    "sizes": "How much data",
    "mitigation": "What helps",
}
HEAD = """\
# Findings

What the studies that come with this workflow found, written by `make findings` from their tables
in `results/`; no number in this file was typed. Changes are of accuracy, in points, unless it says
otherwise; intervals are at 95 % and by template. How a verdict comes about:
[statistics.md](statistics.md).

What holds here holds for one model of 135 million parameters, asked in words, on samples of BBQ.
It shows what the workflow can see, and is no claim about other models.
"""


def read(folder: Path, name: str) -> pd.DataFrame | None:
    """A table of a study, if it has it."""
    path = folder / f"{name}.tsv"
    return pd.read_csv(path, sep="\t") if path.is_file() else None


def section(study: str, results: Path, figures: Path) -> list[str]:
    """What one study found, its figures copied beside the document."""
    config = yaml.safe_load((ROOT / f"studies/{study}.yaml").read_text())
    folder = results / study
    made = datetime.fromtimestamp((folder / "spillover.tsv").stat().st_mtime, UTC).date()
    models = ", ".join(config["models"])
    blocks = config["evaluation"]["blocks_per_attribute"]
    seeds = ", ".join(map(str, config.get("seeds", [0])))
    parts = [
        f"## {TITLES[study]}",
        f"`make study STUDY=studies/{study}.yaml`, {made}: {models}, {blocks} blocks of four items "
        f"an attribute, seed {seeds}.",
    ]
    parts += _said(folder)
    for path in sorted((folder / "figures").glob("*.svg")):
        if path.name.startswith(("matrix_", "along_", "ranking_")):
            shutil.copyfile(path, figures / f"{study}_{path.name}")
            parts.append(f"![{_described(path.stem)}](findings/{study}_{path.name})")
    return parts


def _said(folder: Path) -> list[str]:
    """What the tables say, one after the other."""
    parts = []
    trajectory = read(folder, "trajectory")
    ranking = read(folder, "ranking")
    if ranking is not None:
        parts += findings.ranking(ranking)
    elif (matrix := read(folder, "matrix")) is not None and trajectory is None:
        parts += findings.matrix(matrix)
        for name in ("profiles", "overlap"):
            if (table := read(folder, name)) is not None:
                parts += getattr(findings, name)(table)
    if ranking is None and trajectory is not None:
        for along in trajectory["along"].unique():
            parts += findings.series(trajectory, along)
            timing = read(folder, "timing")
            if along == "training" and timing is not None:
                parts += findings.timing(timing)
    return parts


def _described(name: str) -> str:
    return name.replace("_", " ")


def main() -> None:
    results, target = ROOT / "results", ROOT / "docs/findings.md"
    figures = ROOT / "docs/findings"
    shutil.rmtree(figures, ignore_errors=True)
    figures.mkdir()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    parts = [HEAD.rstrip(), f"Python {platform.python_version()}, {versions}."]
    for study in TITLES:
        if (results / study / "spillover.tsv").is_file():
            parts += section(study, results, figures)
        else:
            parts += [
                f"## {TITLES[study]}",
                f"Not run yet: `make study STUDY=studies/{study}.yaml`.",
            ]
    target.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
