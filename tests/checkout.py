"""A copy of the workflow to run and to change, driven as a user would."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PARTS = [
    "Snakefile",
    "config.yaml",
    "envs",
    "studies",
    "profiles",
    "workflow",
    "resources/bbq.yaml",
    "resources/companions.yaml",
]


class Workflow:
    """A checkout of its own, driven from the command line as a user would."""

    def __init__(self, folder: Path):
        self.folder = folder
        for part in PARTS:
            source = ROOT / part
            (folder / part).parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, folder / part)

    def configure(self, config: dict, name: str = "study.yaml") -> None:
        (self.folder / name).write_text(yaml.safe_dump(config, sort_keys=False))

    def command(self, *arguments: str) -> list[str]:
        # --configfile takes every name behind it: targets go first.
        command = [sys.executable, "-m", "snakemake", *arguments, "--cores", "2"]
        return [*command, "--configfile", "study.yaml"]

    def run(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if check and done.returncode:
            logs = [f"{log}:\n{log.read_text()[-2000:]}" for log in self.folder.rglob("*.log")]
            pytest.fail("\n".join([done.stdout, done.stderr, *logs]))
        return done

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start without waiting, in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Number of jobs that would run, by rule."""
        done = self.run("-n", *arguments)
        text = done.stdout + done.stderr
        table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", text, re.DOTALL)
        if table is None:
            assert "Nothing to be done" in text, text
            return {}
        rows = dict(line.split() for line in table[1].splitlines())
        return {rule: int(n) for rule, n in rows.items() if rule not in ("total", "all")}

    def edit(self, module: str, old: str, new: str) -> None:
        """Change the library's code."""
        path = self.folder / "workflow" / "scripts" / "spillover" / f"{module}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
