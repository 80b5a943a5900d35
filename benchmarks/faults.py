"""A study that is killed again and again: what that costs, and that it changes nothing.

    python benchmarks/faults.py [--kills 20] [--longest 30] [--seed 0] [--bbq FOLDER]

A tiny model in NF4, aligned for gender, and its control: every kind of job that the default
study has. It runs undisturbed, then with kills (-9) at random moments: of everything, of the
driver alone, whose jobs go on, or of one job. Printed are the kills, the time that all starts
took together against the undisturbed run's, and whether every table, adapter, prediction and
figure is the same to the byte; if one is not, the exit status is 1.

The faults of a cluster are in tests/cluster/test_slurm.py.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
ROOT = Path(__file__).parents[1]
sys.path[:1] = [str(ROOT / "workflow" / "scripts"), str(ROOT / "tests")]

import argparse
import random
import tempfile
import time

import faults
import tiny_models
from checkout import Workflow


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=30, help="seconds from start to kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bbq", type=Path, default=ROOT / "resources" / "bbq")
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)

    with tempfile.TemporaryDirectory() as folder:
        model = tiny_models.make(Path(folder) / "model", "llama")
        undisturbed, disturbed = (Workflow(Path(folder) / name) for name in ("whole", "killed"))
        for workflow in (undisturbed, disturbed):
            workflow.configure(faults.study(arguments.bbq.resolve(), model))
        begun = time.monotonic()
        if faults.driver(undisturbed, "--cores", "2").wait():
            sys.exit((undisturbed.folder / "driver.log").read_text())
        whole = time.monotonic() - begun
        record, spent = faults.kill_at_random(disturbed, draw, arguments.kills, arguments.longest)
        expected = faults.results(undisturbed)
        different = faults.different(disturbed, expected)
        left = faults.leftovers(disturbed)

    for kill in record:
        print(f"after {kill['after']:5.1f} s: {kill['killed']}")
    lost = (spent - whole) / max(len(record), 1)
    print(
        f"{len(record)} kills: {spent:.0f} s instead of {whole:.0f} s, {spent / whole:.2f} times "
        f"as long; {lost:.1f} s a kill, the start of Snakemake included"
    )
    print(f"{len(expected)} files, different: {', '.join(different) or 'none'}")
    print(f"left behind: {', '.join(left) or 'nothing'}")
    return int(bool(different or left))


if __name__ == "__main__":
    sys.exit(main())
