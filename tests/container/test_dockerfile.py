"""The image's recipe: it is sound, and what it copies is all that a study needs.

The image itself is built by hand (docs/containers.md): that takes a registry, and minutes.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HADOLINT = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_the_linter_finds_nothing():
    done = subprocess.run(
        [HADOLINT, ROOT / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture
def image(tmp_path) -> Path:
    """What the image holds, with an environment whose Snakemake only plans."""
    folder = tmp_path / "opt"
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, place = ROOT / line[1:], folder / line[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, place)
    snakemake = folder / ".venv/bin/snakemake"
    snakemake.parent.mkdir(parents=True)
    snakemake.write_text(
        f'#!/bin/sh\ncase "$*" in *--report*) exit;; esac\n'
        f'exec "{sys.executable}" -B -m snakemake --dry-run --quiet rules "$@"\n'
    )
    snakemake.chmod(0o755)
    python = snakemake.with_name("python")
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -B "$@"\n')
    python.chmod(0o755)
    (folder / ".venv/.installed").touch()
    return folder


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
@pytest.mark.parametrize("own", [True, False], ids=["own_study", "study_of_the_image"])
def test_a_study_runs_in_another_folder_and_writes_nothing_into_the_image(image, own, tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()
    if own:
        config = yaml.safe_load((ROOT / "config.yaml").read_text()) | {"study": "own"}
        (folder / "mine.yaml").write_text(yaml.safe_dump(config))
    before = files(image)
    done = subprocess.run(
        [
            "make",
            f"--makefile={image}/Makefile",
            "study",
            f"STUDY={'mine.yaml' if own else 'studies/letters.yaml'}",
            "CORES=1",
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text
    assert "making" not in text, "the environment would be made anew"
    assert "train_dpo" in text
    assert (folder / ".snakemake").is_dir()
    assert files(image) == before
