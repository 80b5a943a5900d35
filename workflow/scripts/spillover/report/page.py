"""One page a study: the answer first, the doubts beside it, then figures, tables and sources."""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from spillover.report.answer import Answer
from spillover.report.change import HELD
from spillover.report.figures import CONTEXT_NAMES
from spillover.report.words import listed, name_of, p_value, per_cent, points, span

# By how a figure's file is named: what it is called, and the table that its numbers are in.
FIGURES = {
    "accuracy_change": ("Change of accuracy by attribute and context", "spillover.tsv"),
    "matrix_accuracy": ("Alignments against attributes: change of accuracy", "matrix.tsv"),
    "matrix_bias": ("Alignments against attributes: change of bias score", "matrix.tsv"),
    "along": ("Change of accuracy along a series", "trajectory.tsv"),
    "ranking": ("Arms by gain on the target and harm to the worst attribute", "ranking.tsv"),
    "tradeoff": ("What alignment costs against what it changes, run by run", "tradeoff_runs.tsv"),
    "bias_scores": ("Bias scores before and after, by attribute and context", "metrics.tsv"),
}
QUESTION = "Does aligning for one attribute change fairness on others?"


@dataclass(frozen=True)
class Figure:
    """A figure as part of the page: a data URI, what it shows in words, its caption."""

    source: str
    alt: str
    caption: str


def figures(files: Sequence[str | Path], answers: Sequence[Answer]) -> list[Figure]:
    """Figures of a study, in the order of :data:`FIGURES`.

    Parameters
    ----------
    files : SVG files, named after what they show.
    answers : whose pooled changes are the text alternative of figures of changes.
    """
    found = []
    for prefix, (title, table) in FIGURES.items():
        for path in sorted(map(Path, files)):
            if not path.name.startswith(f"{prefix}_"):
                continue
            of = path.stem.removeprefix(f"{prefix}_")
            alt = f"{title}: {name_of(of)}."
            if prefix == "accuracy_change":
                alt += "".join(
                    f" {answer.model}, attributes not aligned for together: "
                    + listed(
                        f"{points(o.change)} {CONTEXT_NAMES[o.context]}" for o in answer.pooled
                    )
                    + "."
                    for answer in answers
                    if answer.alignment == of and answer.pooled
                )
            found.append(
                Figure(_data_uri(path), alt, f"{title}: {name_of(of)}. Its numbers: {table}.")
            )
    return found


def _data_uri(path: Path) -> str:
    # Of drawings by matplotlib: what the page does not need of the file.
    text = re.sub(r"<metadata>.*?</metadata>", "", path.read_text(), flags=re.DOTALL)
    return f"data:image/svg+xml;base64,{base64.b64encode(text.encode()).decode()}"


def title(answers: Sequence[Answer]) -> str:
    """What the page is about: of one alignment and model the answer in a few words."""
    if not answers:
        return "How the models of this study answer"
    if all(answer.nothing for answer in answers):
        names = listed(dict.fromkeys(answer.alignment for answer in answers))
        return f"{names}: nothing was learnt that could be seen"
    if len(answers) != 1 or not answers[0].pooled:
        return QUESTION
    (answer,) = answers
    ways = {one.way: [] for one in answer.pooled}
    for one in answer.pooled:
        ways[one.way].append(CONTEXT_NAMES[one.context])
    said = listed(
        way if len(ways) == 1 else f"{way} in {listed(contexts)} contexts"
        for way, contexts in ways.items()
    )
    held = any(one.verdict in HELD for one in answer.pooled)
    beyond = ", beyond its control" if answer.control and held and "less" not in said else ""
    targets = listed(map(name_of, answer.targets)) if answer.targets else answer.alignment
    return f"Aligned for {targets}: accuracy on other attributes {said}{beyond}"


def table_of(path: str | Path) -> dict:
    """A table as it lies on disk, cell by cell."""
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    return {
        "name": Path(path).stem,
        "columns": list(table.columns),
        "rows": table.to_numpy().tolist(),
    }


def render(folder: str | Path, **parts: object) -> str:
    """The page as HTML.

    Parameters
    ----------
    folder : with ``page.html.j2``, ``page.css`` and ``page.js``.
    parts : what the template names. Texts of users and models are escaped.
    """
    folder = Path(folder)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    environment.filters |= {
        "points": points,
        "p": p_value,
        "share": per_cent,
        "name": name_of,
        "score": lambda value: "" if pd.isna(value) else f"{value:+.2f}",
    }
    # Ours, and not a user's text.
    style, script = (Markup((folder / name).read_text()) for name in ("page.css", "page.js"))
    template = environment.get_template("page.html.j2")
    return template.render(style=style, script=script, span=span, contexts=CONTEXT_NAMES, **parts)
