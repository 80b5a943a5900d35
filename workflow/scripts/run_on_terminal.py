"""Run Snakemake; on a terminal, tell its progress in one line that moves.

    python workflow/scripts/run_on_terminal.py snakemake --cores 8

Elsewhere, in a pipe or a batch job, it becomes Snakemake, and nothing is different. On a terminal
what Snakemake says of a job when it begins is left to its log (``.snakemake/log``); warnings,
errors and what jobs have to tell stand above the line.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time

from tqdm import tqdm

TOTAL = re.compile(r"total +(\d+)")
STEPS = re.compile(r"(\d+) of (\d+) steps \(.+\) done")
# A job's own: "[model/run/train_dpo] step 15 of 32: loss 0.7, 3.1 pairs/s, 44 s left".
JOB = re.compile(r"\[(.+?)\] ((?:step|block) (\d+) of (\d+))\b(?:.*, )?(.*)")
# What Snakemake says of a job that begins: this, and lines that are indented.
BEGINS = re.compile(r"(local)?(rule|checkpoint) \w+:|Job \d+: .*")
# What it says between jobs, which the line says too.
BETWEEN = re.compile(r"\[.{24}\]|Finished jobid: .*|Select jobs to execute.*|Execute \d+ jobs.*|")
FORMAT = "{n_fmt} of {total_fmt} jobs |{bar:16}| {elapsed}{postfix}"
FORGOTTEN_AFTER = 120  # seconds without a word of a job


class Line:
    """The line, and what it is made of."""

    def __init__(self):
        self.bar = tqdm(
            bar_format="{elapsed} reading the study",
            total=0,
            dynamic_ncols=True,
            disable=False,  # whatever jobs are told (TQDM_DISABLE)
            file=sys.stderr,
        )
        self.jobs: dict[str, tuple[float, str]] = {}
        self.beginning = False

    def take(self, text: str) -> None:
        """One line of what was said: into the line, above it, or away."""
        self.beginning = bool(BEGINS.fullmatch(text)) or (self.beginning and text.startswith(" "))
        if total := TOTAL.fullmatch(text):
            self.bar.total, self.bar.bar_format = int(total[1]), FORMAT
        elif steps := STEPS.fullmatch(text):
            self.bar.n, self.bar.total = map(int, steps.groups())
        elif said := JOB.fullmatch(text):
            job, at, n, of, left = said.groups()
            self.jobs.pop(job, None)
            if n != of:
                self.jobs[job] = (time.monotonic(), f"{job}: {at}, {left}")
        elif not (self.beginning or BETWEEN.fullmatch(text)):
            self.bar.write(text, file=sys.stderr)
        self.show()

    def show(self) -> None:
        now = time.monotonic()
        self.jobs = {k: v for k, v in self.jobs.items() if now - v[0] < FORGOTTEN_AFTER}
        self.bar.set_postfix_str(" · ".join(text for _, text in self.jobs.values()))

    def end(self) -> None:
        self.bar.set_postfix_str("")
        self.bar.close()


def main(command: list[str]) -> int:
    if not sys.stderr.isatty():
        os.execvp(command[0], command)
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    # Ctrl-C reaches Snakemake by itself, which ends its jobs; what it says then is still shown.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: running.terminate())
    said = queue.Queue()

    def read() -> None:
        for text in running.stdout:
            said.put(text.rstrip("\n"))

    # Whatever becomes of the terminal, what is said is read: Snakemake would wait for that.
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        show(running, reader, said)
    except OSError:  # the terminal is gone
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    return running.wait()


def show(running: subprocess.Popen, reader: threading.Thread, said: queue.Queue) -> None:
    """Show what is said until the command has ended."""
    line = Line()
    while running.poll() is None:
        try:
            line.take(said.get(timeout=1))
        except queue.Empty:
            line.show()
    # A job that outlived Snakemake may hold the pipe open.
    reader.join(timeout=1)
    while not said.empty():
        line.take(said.get())
    line.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
