"""What a study was made of and how to cite it: for the end of its page."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from spillover.core.provenance import PACKAGE

ROOT = PACKAGE.parents[2]

PACKAGES = (
    "snakemake",
    "torch",
    "transformers",
    "trl",
    "peft",
    "bitsandbytes",
    "datasets",
    "pandas",
    "statsmodels",
    "scipy",
)
BBQ = """\
@inproceedings{parrish-etal-2022-bbq,
  title = {{BBQ}: A hand-built bias benchmark for question answering},
  author = {Parrish, Alicia and Chen, Angelica and Nangia, Nikita and Padmakumar, Vishakh and
            Phang, Jason and Thompson, Jana and Htut, Phu Mon and Bowman, Samuel},
  booktitle = {Findings of the Association for Computational Linguistics: ACL 2022},
  year = {2022},
  pages = {2086--2105},
  doi = {10.18653/v1/2022.findings-acl.165}
}"""
WORKFLOW = """\
@software{bias-spillover,
  title = {Bias spillover: a Snakemake workflow},
  author = {{The authors of Bias spillover}},
  year = {2026},
  note = {commit %s}
}"""
DPO = """\
@inproceedings{rafailov2023direct,
  title = {Direct Preference Optimization: Your Language Model is Secretly a Reward Model},
  author = {Rafailov, Rafael and Sharma, Archit and Mitchell, Eric and Manning, Christopher D. and
            Ermon, Stefano and Finn, Chelsea},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {36},
  year = {2023}
}"""
QLORA = """\
@inproceedings{dettmers2023qlora,
  title = {{QLoRA}: Efficient Finetuning of Quantized {LLMs}},
  author = {Dettmers, Tim and Pagnoni, Artidoro and Holtzman, Ari and Zettlemoyer, Luke},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {36},
  year = {2023}
}"""
LIBRARIES = """\
@software{trl,
  title = {{TRL}: Transformers Reinforcement Learning},
  author = {von Werra, Leandro and others}
}
@software{peft,
  title = {{PEFT}: State-of-the-art Parameter-Efficient Fine-Tuning methods},
  author = {Mangrulkar, Sourab and others}
}
@inproceedings{wolf-etal-2020-transformers,
  title = {Transformers: State-of-the-Art Natural Language Processing},
  author = {Wolf, Thomas and others},
  booktitle = {Proceedings of EMNLP 2020: System Demonstrations},
  year = {2020},
  doi = {10.18653/v1/2020.emnlp-demos.6}
}"""
SNAKEMAKE = """\
@article{molder2021sustainable,
  title = {Sustainable data analysis with {Snakemake}},
  author = {M{\\"o}lder, Felix and Jablonski, Kim Philipp and Letcher, Brice and others},
  journal = {F1000Research},
  volume = {10},
  number = {33},
  year = {2021},
  doi = {10.12688/f1000research.29032.2}
}"""


def told(source: Mapping) -> str:
    """Where a model is from, in a line: what its ``source.json`` says."""
    parts = [
        f"{key} {source[key]}"
        for key in (
            "repo",
            "requirement",
            "path",
            "file",
            "revision",
            "commit",
            "sha256",
            "content",
        )
        if source.get(key)
    ]
    return "; ".join(parts)


def versions() -> dict[str, str]:
    """Versions of the packages that are installed where the page is written."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Commit of the workflow as the page is written, with a mark if files were changed since.

    Unknown without git, or where the workflow is not a repository of its own.
    """

    def git(*command: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *command],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != ROOT.resolve():
            return "unknown"
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine() -> str:
    """The machine that the page is written on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB"


def recorded(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Where what lies in these folders is from, as far as that is recorded there.

    It is told and makes no result, so that it is no input: a model's folder, of gigabytes, may be
    gone by now.
    """
    return {
        name: told(json.loads((folder / name / "source.json").read_text()))
        for name in names
        if (folder / name / "source.json").is_file()
    }


def trained_on(folder: Path, runs: Iterable[str]) -> list[str]:
    """Devices, and versions of the libraries, that a study's adapters were trained with.

    As training wrote them beside its speed, which makes no result either.

    Parameters
    ----------
    folder : of the study.
    runs : ``{model}/{run}`` of the study.
    """
    told = set()
    for run in runs:
        path = folder / run / "training_speed.tsv"
        if path.is_file():
            rows = pd.read_csv(path, sep="\t")
            if {"device", "versions"} <= set(rows):
                told |= set(rows["device"] + "; " + rows["versions"])
    return sorted(told)


def durations(folder: Path, runs: Iterable[str]) -> pd.DataFrame:
    """Time of a study's jobs by what they do: ``job``, ``n``, ``hours``, ``max_gib``.

    From the benchmark files that Snakemake wrote beside results, if it did; they make no result.

    Parameters
    ----------
    folder : of the study.
    runs : ``{model}/{run}`` of the study.
    """
    rows = []
    files = {path for run in runs for path in (folder / run).glob("**/*.benchmark.tsv")}
    for path in sorted(files):
        try:
            table = pd.read_csv(path, sep="\t")
        except ValueError:  # being written
            continue
        job = "score_companions" if path.parent.name == "companions" else path.name.split(".")[0]
        rows.append(
            {
                "job": job,
                "seconds": pd.to_numeric(table["s"]).sum(),
                "memory": pd.to_numeric(table["max_rss"], errors="coerce").max(),
            }
        )
    if not rows:
        return pd.DataFrame(columns=["job", "n", "hours", "max_gib"])
    by_job = pd.DataFrame(rows).groupby("job", sort=True)
    return pd.DataFrame(
        {
            "n": by_job.size(),
            "hours": by_job["seconds"].sum() / 3600,
            "max_gib": by_job["memory"].max() / 1024,
        }
    ).reset_index()


def citations(trained: bool, quantized: bool) -> str:
    """BibTeX entries of what a study rests on: of training and quantisation, if there was any."""
    entries = [BBQ, SNAKEMAKE, WORKFLOW % commit()]
    if trained:
        entries += [DPO, LIBRARIES]
    if quantized:
        entries.append(QLORA)
    return "\n\n".join(entries)
