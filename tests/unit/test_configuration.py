import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from spillover import study
from spillover.alignment import settings
from spillover.core.errors import InputError

ROOT = Path(__file__).parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())


@pytest.fixture
def config():
    return yaml.safe_load((ROOT / "config.yaml").read_text())


@pytest.mark.parametrize("name", ["config.yaml", "studies/paper.yaml"])
def test_the_studies_that_come_along_are_valid(name):
    study.check(yaml.safe_load((ROOT / name).read_text()), SCHEMA)


def test_every_key_is_described_and_unknown_ones_are_refused():
    def visit(schema, path):
        for name, part in schema.get("properties", {}).items():
            assert "description" in part, f"{path}.{name}"
            assert "default" in part or name in REQUIRED, f"{path}.{name}"
            visit(part, f"{path}.{name}")
        if "properties" in schema:
            assert schema["additionalProperties"] is not True

    # no default: required, or belonging to one kind of source
    REQUIRED = {
        "study", "models", "path", "source", "type", "requirement", "sha256", "file", "repo",
        "predictions", "target",
    }  # fmt: skip
    visit(SCHEMA, "config")
    for name in ("model", "alignment"):
        visit(SCHEMA["$defs"][name], name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda c: c["alignments"]["gender"]["training"].update(learning_rat=1),
            "alignments.gender.training: unknown key 'learning_rat'; the nearest known key is "
            "'learning_rate'",
        ),
        (
            lambda c: c["alignments"]["gender"]["training"].update(learning_rate="2e-4"),
            "training.learning_rate: expected number, found '2e-4' (str); it is given as text",
        ),
        (
            lambda c: c["evaluation"].update(attributes=["Agee"]),
            "evaluation.attributes.0: expected one of Age, ",
        ),
        (
            lambda c: c["alignments"]["gender"].update(target=["Race_x_SES"]),
            "alignments.gender.target: Race_x_SES is not among evaluation.attributes",
        ),
        (lambda c: c["alignments"]["gender"].update(target=[]), "alignments.gender.target"),
        (lambda c: c["alignments"]["gender"]["split"].update(heldout=1.5), "split.heldout: 1.5"),
        (lambda c: c.pop("study"), "expected the key 'study'"),
        (lambda c: c["models"].update(pairs=c["models"]["smollm2-135m"]), "'pairs' is taken"),
        (
            lambda c: c["models"]["smollm2-135m"].update(predictions={"base": "a.csv"}),
            "either source or predictions",
        ),
        (
            lambda c: c["models"].update(theirs={"predictions": {"base": "a.csv"}}),
            "models.theirs.predictions: expected a file for base and for each of gender/seed0",
        ),
        (
            lambda c: c["models"]["smollm2-135m"]["source"].pop("sha256"),
            "models.smollm2-135m.source: expected the key 'sha256'",
        ),
        (
            lambda c: c["alignments"]["gender"].update(
                objective={"loss": ["apo_zero"], "f_divergence": "js_divergence"}
            ),
            "alignments.gender.objective.f_divergence: js_divergence goes with",
        ),
        (lambda c: c.update(seeds=[]), "seeds"),
        (lambda c: c["statistics"].update(correction="bonferoni"), "expected one of holm"),
        (
            lambda c: c["statistics"].update(resamples=1e4),
            "statistics.resamples: expected integer, found 10000.0 (float); write it as 10000",
        ),
        (
            lambda c: c["statistics"].update(resamples="1e4"),
            "found '1e4' (str); write it as 10000",
        ),
        (lambda c: c["statistics"].update(resamples=True), "expected integer, found True (bool)"),
        (
            lambda c: c["statistics"].update(alpha=float("nan")),
            "statistics.alpha: expected a finite number, found nan",
        ),
        (lambda c: c.update(study=2024), "study: expected string, found 2024 (int); put it in"),
        (
            lambda c: c["models"].update(theirs={"predictions": {"base": "a.csv", 0: "b.csv"}}),
            "models.theirs.predictions: expected keys that are text, found 0 (int)",
        ),
        (
            lambda c: c["models"].update(theirs={"predictions": {"base": "a.parquet"}}),
            "models.theirs.predictions.base: expected a CSV file (*.csv, or *.csv.gz), found "
            "'a.parquet'",
        ),
        (lambda c: c.update(bbq={"path": "/mine"}), "bbq: expected the key 'type'"),
        (lambda c: c.update(study="metrics.tsv"), "the name 'metrics.tsv' is taken"),
    ],
)
def test_a_fault_is_told_in_one_line_with_its_key(config, spoil, message):
    spoil(config)
    with pytest.raises(InputError, match=re.escape(message)) as told:
        study.check(config, SCHEMA)
    assert "\n" not in str(told.value)


def test_answers_without_alignments_are_told_what_is_expected(config):
    config["alignments"] = {}
    config["models"] = {"theirs": {"predictions": {"base": "a.csv", "g/seed0": "b.csv"}}}
    with pytest.raises(InputError, match=r"no alignments\); found g/seed0"):
        study.check(config, SCHEMA)


def test_checking_changes_nothing(config):
    before = copy.deepcopy(config)
    study.check(config, SCHEMA)
    assert config == before


def test_the_defaults_of_the_schema_are_those_of_the_library():
    parts = SCHEMA["$defs"]["alignment"]["properties"]
    keys = {"objective": "OBJECTIVE", "lora": "LORA", "training": "TRAINING"}
    machine = SCHEMA["properties"]["machine"]["properties"]
    for part, name in keys.items():
        described = parts[part]["properties"] | (machine if part == "training" else {})
        for key, default in getattr(settings, name).items():
            assert described[key]["default"] == default, f"{part}.{key}"


def test_checking_needs_no_torch():
    code = "import sys; from spillover import study; sys.exit('torch' in sys.modules)"
    environment = {"PYTHONPATH": str(ROOT / "workflow/scripts")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0
