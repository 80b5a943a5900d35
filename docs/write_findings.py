"""Write docs/findings.md from the tables of the studies that come along: make findings.

Every number is read from a table. What the document says of a study that has no results here
stays as it is.
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

# Of the tests, where a study does not say another: the schema's default.
ALPHA = 0.05
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes")
TITLES = {
    "matrix": "Aligned for each attribute: what happens to all",
    "trajectory": "Along training, and at other strengths",
    "sizes": "How much data",
    "mitigation": "What helps",
    "tradeoff": "What it costs",
}
# Tables that a study is told by; one that lacks any has not come to its end.
TABLES = {
    "matrix": ("matrix", "profiles", "overlap"),
    "trajectory": ("trajectory", "timing"),
    "sizes": ("trajectory",),
    "mitigation": ("ranking",),
    "tradeoff": ("forgetting", "tradeoff", "ranking"),
}
# Figures beside what is said, by how their names begin.
FIGURES = {
    "matrix": ("matrix_",),
    "trajectory": ("along_",),
    "sizes": ("along_items_",),
    "mitigation": ("ranking_",),
    "tradeoff": ("tradeoff_", "ranking_"),
}
HEAD = """\
# Findings

What five studies that come with this workflow found, written by `make findings` from their tables
in `results/`; no number of a result was typed. Changes are of accuracy, in points, unless it says
otherwise; intervals are at level 1 - alpha (95 % unless the study says otherwise) and by template.
How a verdict comes about: [statistics.md](statistics.md).

What holds here holds for the models that are named, asked in words, on samples of BBQ. It shows
what the workflow can see, and is no claim about other models.
"""


def read(folder: Path, study: str, model: str) -> dict[str, pd.DataFrame]:
    """What the tables of a study say of a model."""
    tables = {
        name: pd.read_csv(folder / f"{name}.tsv", sep="\t", dtype={"model": str})
        for name in TABLES[study]
    }
    return {name: table[table["model"] == model] for name, table in tables.items()}


def section(study: str, results: Path, figures: Path) -> list[str]:
    """What one study found, its figures copied beside the document."""
    config = yaml.safe_load((ROOT / f"studies/{study}.yaml").read_text())
    folder = results / study
    made = datetime.fromtimestamp((folder / f"{TABLES[study][0]}.tsv").stat().st_mtime, UTC).date()
    models = ", ".join(config["models"])
    blocks = config["evaluation"]["blocks_per_attribute"]
    seeds = ", ".join(map(str, config.get("seeds", [0])))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    parts = [
        f"`make study STUDY=studies/{study}.yaml`, {made}: {models}, {blocks} blocks of four items "
        f"an attribute, seed {seeds}; Python {platform.python_version()}, {versions}.",
    ]
    for old in figures.glob(f"{study}_*.svg"):
        old.unlink()
    for model in config["models"]:
        if len(config["models"]) > 1:
            parts.append(f"### {model}")
        parts += _said(read(folder, study, model), config.get("statistics", {}).get("alpha", ALPHA))
    for path in sorted((folder / "figures").glob("*.svg")):
        if path.name.startswith(FIGURES[study]):
            name = f"{study}_{path.name.removeprefix(f'{study}_')}"
            shutil.copyfile(path, figures / name)
            parts.append(f"![{path.stem.replace('_', ' ')}](findings/{name})")
    return parts


def _said(tables: dict[str, pd.DataFrame], alpha: float) -> list[str]:
    """What tables of one model say, one after the other."""
    if "tradeoff" in tables:
        return [
            *findings.forgetting(tables["forgetting"], alpha),
            *findings.tradeoff(tables["tradeoff"], tables["ranking"]),
            *findings.ranking(tables["ranking"]),
        ]
    if "ranking" in tables:
        return findings.ranking(tables["ranking"])
    if "matrix" in tables:
        return [
            *findings.matrix(tables["matrix"], alpha),
            *findings.profiles(tables["profiles"], alpha),
            *findings.overlap(tables["overlap"]),
        ]
    parts = []
    for along in tables["trajectory"]["along"].unique():
        parts += findings.series(tables["trajectory"], along)
        if along == "training":
            parts += findings.timing(tables["timing"])
    return parts


def earlier(document: Path) -> dict[str, str]:
    """What the document says now, by title."""
    if not document.is_file():
        return {}
    sections = document.read_text().split("\n## ")[1:]
    return {title: text.strip() for title, _, text in (part.partition("\n") for part in sections)}


def main() -> None:
    # Results lie where Snakemake was started.
    results, target = Path("results"), ROOT / "docs/findings.md"
    figures = ROOT / "docs/findings"
    figures.mkdir(exist_ok=True)
    said = earlier(target)
    parts = [HEAD.rstrip()]
    for study, title in TITLES.items():
        parts.append(f"## {title}")
        if all((results / study / f"{name}.tsv").is_file() for name in TABLES[study]):
            parts += section(study, results, figures)
        else:
            parts.append(said.get(title, f"Not run yet: `make study STUDY=studies/{study}.yaml`."))
    target.write_text("\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
