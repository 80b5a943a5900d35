"""What README.md shows a reader: each command typed as it stands there, on a tiny study."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from checkout import ROOT, Workflow
from faults import wait_for
from snakemake.io import expand
from study_files import filled, read

ENVIRONMENT = Path(sys.prefix)
pytestmark = [
    pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed"),
    pytest.mark.skipif(
        not (ENVIRONMENT / "bin/activate").exists(), reason="not in a virtual environment"
    ),
]

README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)


def codes(text: str) -> list[str]:
    """Code in running text, which may go on in the next line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def commands() -> list[str]:
    """Lines of the README's blocks of commands, and the commands in its text and tables."""
    blocks = [block for kind, block in BLOCK.findall(README) if kind not in ("", "yaml")]
    lines = [line.partition(" #")[0].strip() for line in "".join(blocks).splitlines()]
    told = [
        code for code in codes(BLOCK.sub("", README)) if re.match(r"(make|snakemake|\.) ", code)
    ]
    # In its text a command may be cut short: `make plan`.
    whole = [code for code in told if not any(f"{line} ".startswith(f"{code} ") for line in lines)]
    return list(dict.fromkeys([*filter(None, lines), *whole]))


COMMANDS = commands()


def command(words: str) -> str:
    """The command of the README that these words are, or else the one that begins with them."""
    begun = [one for one in COMMANDS if one.startswith(words)]
    found = [words] if words in COMMANDS else begun
    assert len(found) == 1, f"README.md: expected one command {words!r}, found {found}"
    return found[0]


HELP = command("make help")
ENV = command("make env")
ACTIVATE = command(". ")
PLAN = command("make plan")
STUDY = command("make study STUDY=")
ONE_RUN = command("snakemake --cores 8 results/")
ALL = command("snakemake --cores 8 --configfile ")
WORKSTATION = command("snakemake --profile profiles/workstation ")
REPORT = command("snakemake --report ")
EXPORT = command("make export")
UNLOCK = command("snakemake --unlock")
RUN = {HELP, ENV, ACTIVATE, PLAN, STUDY, ONE_RUN, ALL, WORKSTATION, REPORT, EXPORT, UNLOCK}

DEFAULT = command("make study")
FINDINGS = command("make findings")
SLURM = command("snakemake --profile profiles/slurm ")
NOT_RUN = {
    DEFAULT: "downloads, and takes minutes: what it would run is planned here",
    FINDINGS: "takes hours: planned as well",
    SLURM: "runs in tests/cluster, on a SLURM of its own: planned as well",
    command("make test"): "runs these tests",
}


def test_every_command_of_the_readme_is_known():
    left_out = [one for one in COMMANDS if one not in RUN | NOT_RUN.keys()]
    assert not left_out, f"README.md shows commands that no test runs: {left_out}"


# ------------------------------------------------------------------ the study


def changed(text: str, *changes: tuple[str, str]) -> str:
    for old, new in changes:
        assert text.count(old) == 1, f"README.md: expected {old!r} once in the study:\n{text}"
        text = text.replace(old, new)
    return text


AS_IT_STANDS = next(block for kind, block in BLOCK.findall(README) if kind == "yaml")
SMALLER = {"max_items": 16, "blocks_per_attribute": 3}


def trial(settings: list[str]) -> str:
    """The README's study with what it says to set for a trial."""
    of_alignment, of_control, evaluation, of_model = settings
    study = changed(
        AS_IT_STANDS,
        ("control: gender-shuffled\n", f"control: gender-shuffled\n    {of_alignment}\n"),
        ("pairs: {preferences: shuffled}", of_control),
        ("  my-model:\n", f"  my-model:\n    {of_model}\n"),
    )
    return f"{study}{evaluation}\n"


TRIAL = codes(re.search(r"For a trial set (.+?) as well\.", README, re.DOTALL)[1])


def sizes(study: str) -> tuple[dict[str, int | None], int | None]:
    config = filled(yaml.safe_load(study))
    items = {name: of["pairs"]["max_items"] for name, of in config["alignments"].items()}
    return items, config["evaluation"]["blocks_per_attribute"]


def test_the_study_takes_all_items_and_its_trial_fewer(nine_attributes):
    assert sizes(AS_IT_STANDS) == ({"gender": None, "gender-shuffled": None}, None)
    assert sizes(trial(TRIAL)) == ({"gender": 128, "gender-shuffled": 128}, 10)
    evaluation = filled(yaml.safe_load(AS_IT_STANDS))["evaluation"]
    assert evaluation["attributes"] == nine_attributes


# ------------------------------------------------------------------ the commands


class Reader(Workflow):
    """Who has a checkout and its environment, and types what the README shows."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        for name in ("Makefile", "requirements.txt"):
            shutil.copy2(ROOT / name, folder)
        # The interpreter's environment, and word that it is newer than its requirements.
        (folder / ".venv").mkdir()
        for part in ENVIRONMENT.iterdir():
            if part.name != ".installed":
                (folder / ".venv" / part.name).symlink_to(part)
        (folder / ".venv/.installed").touch()

    def begins(self, command: str) -> subprocess.Popen:
        """Start a command, Snakemake's inside the environment, in a process group of its own."""
        inside = f"{ACTIVATE} && " if command.startswith("snakemake ") else ""
        # Not the settings of a make that runs these tests.
        ours = ("MAKE", "MFLAGS", "STUDY", "CORES", "FINDINGS")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.Popen(
            ["sh", "-c", inside + command],
            cwd=self.folder,
            env=kept | {"CUDA_VISIBLE_DEVICES": "", "LC_ALL": "C.UTF-8"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def types(self, command: str, succeeds: bool = True) -> str:
        """What a command prints."""
        process = self.begins(command)
        output, _ = process.communicate()
        assert (process.returncode == 0) == succeeds, f"{command}\n{output}"
        return output

    def files(self, folder: str = "results/mine") -> set[str]:
        """What is in a folder and those below it, but for what is hidden."""
        place = self.folder / folder
        paths = (path.relative_to(place) for path in place.rglob("*"))
        return {str(path) for path in paths if not any(part[0] == "." for part in path.parts)}


@pytest.fixture(scope="module")
def reader(published, tiny_folder, tmp_path_factory):
    """With the README's study, as a trial yet smaller, of a tiny model and data that are here."""
    reader = Reader(tmp_path_factory.mktemp("readme") / "checkout")
    small = [re.sub(r"(\w+): \d+", lambda m: f"{m[1]}: {SMALLER[m[1]]}", text) for text in TRIAL]
    study = changed(
        trial(small),
        ("/data/my-model", str(tiny_folder("llama"))),
        ("models:\n", f"bbq: {{type: path, path: {published}}}\nmodels:\n"),
    )
    (reader.folder / "mine.yaml").write_text(study)
    return reader


@pytest.fixture(scope="module")
def planned(reader) -> str:
    return reader.types(PLAN)


@pytest.fixture(scope="module")
def one_run(reader, planned) -> set[str]:
    """What the run of one model has made."""
    reader.types(ONE_RUN)
    return reader.files("results/mine/my-model")


@pytest.fixture(scope="module")
def killed(reader, one_run) -> str:
    """What a study says that is started again after it was killed while it trained."""
    process = reader.begins(STUDY)
    wait_for((reader.folder / "results/mine/my-model/gender/seed0/train_dpo.log").exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return reader.types(STUDY, succeeds=False)


@pytest.fixture(scope="module")
def finished(reader, killed) -> Reader:
    reader.types(UNLOCK)
    reader.types(STUDY)
    return reader


def test_help_lists_every_target_of_the_readme(reader):
    listed = re.findall(r"^make (\w+) +\w", reader.types(HELP), re.MULTILINE)
    assert {one.split()[1] for one in COMMANDS if one.startswith("make ")} <= set(listed)


def test_an_environment_that_is_there_is_left_as_it_is(reader):
    assert "Nothing to be done" in reader.types(ENV)


def test_the_plan_prints_what_it_is_said_to(reader, planned):
    trainings = r"^my-model, (\S+): (\d+) pairs in (\d+) steps, \d+ tokens .*\n.* = \d+\.\d+ GB$"
    assert re.findall(trainings, planned, re.MULTILINE) == [
        ("gender", "32", "2"),
        ("gender-shuffled", "32", "2"),
    ]
    for line in (
        r"jobs that load a model: 1 quantize_model, 3 score_items, 2 train_dpo, 2 diagnose_\w+",
        r"  weights are loaded 8 times, once a job: \d+\.\d+ GB to read",
        r"tokens through the model: \d+ in scoring, .*",
        r"GPU time: .* assumed: a GPU sustains \d+ TFLOP/s \(machine\.gpu_tflops\), .*",
        r"  on 1, 2, 4, 8 GPUs: .*",
        r"train_dpo +2",
    ):
        assert re.search(f"^{line}$", planned, re.MULTILINE), f"{line}\n{planned}"
    assert (reader.folder / "results/mine/plan.txt").read_text() in planned


def test_one_run_answers_all_attributes(one_run, nine_attributes):
    answers = {f"base/predictions/{attribute}.parquet" for attribute in nine_attributes}
    assert {file for file in one_run if file.endswith(".parquet")} == answers
    assert {file.split("/")[0] for file in one_run} == {"base"}


def test_a_study_that_was_killed_is_to_be_unlocked(killed):
    assert "Directory cannot be locked" in killed


@pytest.mark.parametrize(
    ("command", "lost"), [(ALL, "my-model/base"), (WORKSTATION, "figures")], ids=["all", "gpus"]
)
def test_what_is_lost_is_made_again(finished, command, lost):
    before = finished.files()
    shutil.rmtree(finished.folder / "results/mine" / lost)
    finished.types(command)
    assert finished.files() == before


def test_the_report_has_page_tables_figures_and_jobs(finished):
    report = finished.folder / "report.html"
    report.unlink()  # of make study
    finished.types(REPORT)
    page = report.read_text()
    made = [
        Path(file).name
        for file in finished.files()
        if re.fullmatch(r"(?!plan)\w+\.(tsv|html)|figures/\w+\.svg", file)
    ]
    assert {"findings.html", "spillover.tsv", "accuracy_change_gender.svg"} <= set(made)
    assert [name for name in made if name not in page] == []
    assert "train_dpo" in page
    # With these words docutils would tell the reader what is wrong with a description.
    assert "System Message" not in page


def test_the_export_has_every_run_and_a_card_of_each_adapter(finished):
    finished.types(EXPORT)
    made = finished.files("results/mine/export")
    runs = ["my-model", "my-model_gender_seed0", "my-model_gender-shuffled_seed0"]
    for kind in (r"[\w-]+(?<!_samples)\.json", r"[\w-]+_samples\.jsonl"):
        found = [re.fullmatch(rf"data/bbq/local/([\w-]+)/{kind}", file) for file in made]
        assert sorted(match[1] for match in found if match) == sorted(runs)
    cards = {file for file in made if file.endswith("model-index.yaml")}
    assert cards == {
        f"my-model/{alignment}/seed0/model-index.yaml"
        for alignment in ("gender", "gender-shuffled")
    }


# ------------------------------------------------------------------ the tables


def rows(heading: str) -> list[tuple[list[str], str]]:
    """Names in the first column of the table below a heading, and the rest of each row."""
    section = re.search(rf"^## {heading}.*?\n(.*?)^## ", README, re.MULTILINE | re.DOTALL)[1]
    cells = re.findall(r"^\| (`.+?) \|(.+)\|$", section, re.MULTILINE)
    return [(codes(names), rest) for names, rest in cells]


def wildcards(config: dict) -> dict[str, list]:
    runs = expand("{alignment}/seed{seed}", alignment=config["alignments"], seed=config["seeds"])
    return {
        "study": [config["study"]],
        "model": list(config["models"]),
        "alignment": list(config["alignments"]),
        "seed": config["seeds"],
        "run": ["base", *runs],
        "attribute": config["evaluation"]["attributes"],
        "set": config["companions"]["sets"],
        "wheel": list(yaml.safe_load((ROOT / "resources/companions.yaml").read_text())["wheels"]),
    }


@pytest.fixture(scope="module")
def others(reader) -> str:
    """What Snakemake plans for the studies that take long, called as make calls it."""
    output = ""
    for command in (DEFAULT, FINDINGS):
        *studies, _ = reader.types(f"{command} --dry-run").splitlines()  # then: report, document
        output += reader.types("\n".join(studies).replace("--cores", "--dry-run --cores"))
    return output


def test_the_default_study_ends_with_its_page(others):
    page = re.search(r"ends with its page,\s+`(\S+)`", README)[1]
    assert f"output: {page}\n" in others


def test_on_a_cluster_there_is_nothing_left_to_do_either(finished):
    assert "Nothing to be done" in finished.types(f"{SLURM} --dry-run")


def test_what_comes_out_is_there_or_planned_for_the_studies_that_have_it(finished, others):
    config = filled(yaml.safe_load((finished.folder / "mine.yaml").read_text()))
    known = wildcards(config)
    assert len(rows("What comes out")) > 15
    for names, what in rows("What comes out"):
        of_others = re.search(r"studies/|of the same|companion", what)
        for name in [names[0], *(str(Path(names[0]).with_name(other)) for other in names[1:])]:
            if of_others:
                pattern = re.sub(r"\\\{\w+\\\}", r"\\S+", re.escape(name))
                assert re.search(rf"\bresults/\w+/{pattern}", others), name
            else:
                files = expand(f"results/mine/{name}", **known)
                assert [file for file in files if not (finished.folder / file).exists()] == []


def test_every_target_of_the_readme_can_be_asked_for(reader):
    known = wildcards(filled(read("config.yaml")))
    names = [name for names, _ in rows("Targets") for name in names]
    assert len(names) > 15
    targets = expand([name.replace("…", "results/{study}") for name in names], **known)
    reader.types(f"snakemake --dry-run {' '.join(targets)}")
