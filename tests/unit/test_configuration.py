import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from spillover import caveats, study, user_paths
from spillover.alignment import settings
from spillover.core import configuration
from spillover.core.errors import InputError
from study_files import ROOT, SCHEMA_FILE, STUDIES, filled, read

SCHEMA = yaml.safe_load(SCHEMA_FILE.read_text())
ATTRIBUTES = yaml.safe_load((ROOT / "resources/bbq.yaml").read_text())["attributes"]


def check(config: dict) -> dict:
    """As the workflow does; the configuration with its defaults."""
    configuration.check(config, SCHEMA)
    study.check_kinds(config)
    complete = filled(config)
    study.check(complete, ATTRIBUTES)
    return complete


PLACE = {"type": "path", "path": "somewhere"}
ADAPTER = {"smollm2-135m": PLACE}


@pytest.fixture
def config():
    return read("config.yaml")


@pytest.mark.parametrize("name", STUDIES)
def test_the_studies_that_come_along_are_valid(name):
    notes = caveats.of(check(read(name)))
    # The paper had no control, and nobody published one for what was made elsewhere.
    without = {
        "studies/paper.yaml": ["alignments.gender: has no control"],
        "studies/elsewhere.yaml": ["alignments.ultrafeedback-dpo: has no control"],
        # What is merged; the arms themselves are compared with one another.
        "studies/mitigation.yaml": [
            "alignments.gender-64: has no control",
            "alignments.religion-64: has no control",
        ],
    }
    few = "evaluation.blocks_per_attribute: too few for a cell of matrix.tsv to hold"
    without |= {
        f"studies/{name}.yaml": [*without.get(f"studies/{name}.yaml", []), few]
        for name in ("trajectory", "sizes", "mitigation", "tradeoff")
    }
    told = [": ".join(note.split(": ")[:2]) for note in notes]
    assert told == without.get(name, [])


def test_every_target_of_the_default_study_has_its_control(config):
    alignments = config["alignments"]
    for alignment in alignments.values():
        if alignment["pairs"].get("preferences", "correct") == "correct":
            control = alignments[alignment["control"]]
            assert control["pairs"]["preferences"] == "shuffled"
            different = {key for key in alignment if alignment[key] != control.get(key)}
            assert different == {"pairs", "control"}


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
        "predictions", "target", "of", "minus", "adapter", "checkpoint", "base", "data",
        "metadata", "chat_template", "attributes", "weight", "derive", "from", "strength",
        "truncate_rank", "merge", "method", "weights", "density", "ranking", "reference", "arms",
    }  # fmt: skip
    visit(SCHEMA, "config")
    for name in ("model", "alignment", "source", "elsewhere", "anchor", "replay"):
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
            "evaluation.attributes: expected of Age, ",
        ),
        (
            lambda c: c["alignments"]["gender"].update(adapter=ADAPTER),
            "alignments.gender.split: an alignment that is trained here has it, and this one is",
        ),
        (
            lambda c: c["alignments"].update(given={"target": [], "adapter": {"other": PLACE}}),
            "alignments.given.adapter: expected a source for each of the study's models "
            "(smollm2-135m), found other",
        ),
        (
            lambda c: c["alignments"].update(
                given={"target": [], "adapter": {"smollm2-135m": [PLACE, PLACE]}}
            ),
            "alignments.given.adapter.smollm2-135m: expected one source, or 1, one for each of",
        ),
        (
            lambda c: c["alignments"].update(
                given={"target": [], "adapter": ADAPTER, "checkpoint": ADAPTER}
            ),
            "alignments.given: expected one of adapter, checkpoint, found both",
        ),
        (
            lambda c: c["alignments"].update(
                given={"target": ["Age"], "adapter": {"smollm2-135m": {"type": "path"}}}
            ),
            "alignments.given.adapter.smollm2-135m: expected the key 'path'",
        ),
        (
            lambda c: c["alignments"]["gender"].update(trained_on="ids.txt"),
            "alignments.gender.trained_on: goes with adapter or checkpoint",
        ),
        (
            lambda c: c["alignments"].update(
                given={"target": ["Gender_identity"], "adapter": ADAPTER, "control": "gender"}
            ),
            "alignments.given.control: expected an alignment with the same items; one of given",
        ),
        (
            lambda c: c.update(bbq={"sets": {"Age": {"data": "a.jsonl", "metadata": "a.csv"}}}),
            "bbq.sets.Age: BBQ has a set of this name",
        ),
        (
            lambda c: c.update(
                models={f"{name}mine": c["models"]["smollm2-135m"] for name in ("", "c_")},
                alignments={
                    f"a{name}": c["alignments"]["gender"] | {"control": None} for name in ("", "_c")
                },
            ),
            "alignments.a_c: its figures of mine and those of a of c_mine have one name",
        ),
        (
            lambda c: c.update(companions={"sets": ["openbokqa"]}),
            "found 'openbokqa', the nearest is 'openbookqa'",
        ),
        (
            lambda c: c.update(companions={"own": {"piqa": {"path": "a.csv", "text": "t"}}}),
            "companions.own.piqa: a published set has this name",
        ),
        (
            lambda c: c.update(companions={"own": {"mine": {"text": "t"}}, "sets": ["mine"]}),
            "companions.own.mine: expected repo",
        ),
        (
            lambda c: c.update(bbq={"sets": {"all": {"data": "a.jsonl", "metadata": "a.csv"}}}),
            "bbq.sets.all: tables use this name",
        ),
        (
            lambda c: c.update(
                models={"theirs": {"predictions": {"base": "a.csv"}}},
                alignments={},
                evaluation={"checkpoints": [0.5]},
            ),
            "evaluation.checkpoints: expected a model that is trained here",
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
            "models.theirs.predictions.base: expected a file of answers (*.csv, *.tsv, *.jsonl, "
            "*.json or *.eval, or one of these with .gz), found 'a.parquet'",
        ),
        (lambda c: c.update(bbq={"path": "/mine"}), "bbq: expected the key 'type'"),
        (lambda c: c.update(study="metrics.tsv"), "the name 'metrics.tsv' is taken"),
        (
            lambda c: c["models"].update({"m.nf4": c["models"]["smollm2-135m"]}),
            "models: the name 'm.nf4' is taken",
        ),
        (
            lambda c: c["alignments"]["gender"].update(control="shuffled"),
            "alignments.gender.control: expected another alignment (gender-shuffled), found "
            "'shuffled'",
        ),
        (
            lambda c: c["alignments"]["gender"].update(control="gender"),
            "alignments.gender.control: expected another alignment (gender-shuffled), found itself",
        ),
        (
            lambda c: c["alignments"]["gender-shuffled"].update(target=["Religion"]),
            "alignments.gender.control: expected an alignment with the same items, found "
            "gender-shuffled with target: ['Religion'] instead of ['Gender_identity']",
        ),
        (
            lambda c: c["alignments"]["gender-shuffled"].pop("exclude_groups"),
            "found gender-shuffled with exclude_groups: null instead of ^(trans|nonTrans)",
        ),
        (
            lambda c: c["alignments"]["gender-shuffled"]["split"].update(seed=1),
            "alignments.gender.control: expected an alignment with the same items, found "
            "gender-shuffled with split: {'by': 'template', 'heldout': 0.2, 'seed': 1} instead of",
        ),
        (
            lambda c: c["alignments"]["gender-shuffled"]["pairs"].update(max_items=None),
            "found gender-shuffled with pairs.max_items: null instead of",
        ),
        (
            lambda c: c["alignments"]["gender-shuffled"]["pairs"].update(max_items=1),
            "alignments.gender-shuffled.pairs.max_items: 1 is less than the minimum of 4",
        ),
        (
            lambda c: c["alignments"]["gender"]["pairs"].update(preferences="random"),
            "pairs.preferences: expected one of correct, shuffled",
        ),
        (
            lambda c: c["evaluation"]["cloze"].update(prompt="text"),
            "evaluation.cloze.prompt: expected one of chat, plain",
        ),
        (
            lambda c: c.update(contrasts={"q": {"of": "smollm2-135m", "minus": "other"}}),
            "contrasts.q.minus: expected a model (smollm2-135m), found 'other'",
        ),
        (
            lambda c: c.update(contrasts={"q": {"of": "smollm2-135m", "minus": "smollm2-135m"}}),
            "contrasts.q: expected two models, found smollm2-135m twice",
        ),
        (
            lambda c: c.update(contrasts={"gender": {"of": "smollm2-135m", "minus": "x"}}),
            "contrasts.gender: an alignment has this name too",
        ),
        (
            lambda c: c.update(contrasts={"q": {"of": "smollm2-135m"}}),
            "contrasts.q: expected the key 'minus'",
        ),
    ],
)
def test_a_fault_is_told_in_one_line_with_its_key(config, spoil, message):
    spoil(config)
    with pytest.raises(InputError, match=re.escape(message)) as told:
        check(config)
    assert "\n" not in str(told.value)


def test_a_contrast_needs_models_that_are_asked_alike(config):
    runs = ["base", "gender/seed0", "gender-shuffled/seed0"]
    config["models"]["theirs"] = {"predictions": dict.fromkeys(runs, "a.csv")}
    config["contrasts"] = {"api": {"of": "theirs", "minus": "smollm2-135m"}}
    check(config)  # in words there is one order
    config["evaluation"]["scoring"] = "letter"
    with pytest.raises(InputError, match=r"contrasts.api: expected two models asked the same"):
        check(config)
    config["evaluation"]["option_orders"] = "given"
    check(config)


def test_a_transfer_of_form_is_allowed_and_said(config):
    config["evaluation"]["scoring"] = "letter"
    notes = caveats.of(check(config))
    assert len(notes) == 2
    assert notes[0].startswith("alignments.gender: aligned in words, evaluated by letter")
    for alignment in config["alignments"].values():
        alignment["pairs"]["format"] = "two_option"
    assert caveats.of(check(config)) == []


def test_an_alignment_without_control_is_allowed_and_said(config):
    config["alignments"]["gender"]["control"] = None
    notes = caveats.of(check(config))
    assert [note.split(", ")[0] for note in notes] == [
        f"alignments.{name}: has no control: what of a change comes from training at all"
        for name in ("gender", "gender-shuffled")
    ]


def test_a_matrix_in_which_no_cell_could_hold_is_said():
    config = read("studies/matrix.yaml")
    assert caveats.of(check(config)) == []
    config["evaluation"]["blocks_per_attribute"] = 12
    assert caveats.of(check(config)) == []
    # 2 / 2^11 of 72 cells is 0.07.
    config["evaluation"]["blocks_per_attribute"] = 11
    (note,) = caveats.of(check(config))
    assert "with 72 untargeted cells 12 are the least, found 11" in note
    config["statistics"] = {"correction": "fdr_bh"}
    assert caveats.of(check(config)) == []


def test_a_control_that_is_trained_otherwise_is_allowed_and_said(config):
    config["alignments"]["gender-shuffled"]["training"]["epochs"] = 3
    config["alignments"]["gender-shuffled"]["pairs"]["format"] = "two_option"
    notes = caveats.of(check(config))
    assert any(
        "alignments.gender.control: gender-shuffled differs in pairs.format and training" in note
        for note in notes
    )


def test_a_control_that_differs_in_nothing_is_refused(config):
    config["alignments"]["gender-shuffled"]["pairs"]["preferences"] = "correct"
    with pytest.raises(InputError, match=r"gender\.control: expected an alignment that differs"):
        check(config)


def test_a_key_that_stands_twice_is_refused(tmp_path):
    file = tmp_path / "study.yaml"
    text = (ROOT / "config.yaml").read_text()
    file.write_text(text)
    configuration.check_keys(file)
    old = "    pairs: {format: cloze, max_items: 128, preferences: shuffled}\n"
    assert old in text
    file.write_text(text.replace(old, old + "    pairs: {max_items: 64}\n"))
    with pytest.raises(InputError, match=r"line \d+: 'pairs' stands here a second time"):
        configuration.check_keys(file)


def test_answers_without_alignments_are_told_what_is_expected(config):
    config["alignments"] = {}
    config["models"] = {"theirs": {"predictions": {"base": "a.csv", "g/seed0": "b.csv"}}}
    with pytest.raises(InputError, match=r"no alignments\); found g/seed0"):
        check(config)


def test_an_alignment_made_elsewhere_needs_no_target_and_says_what_is_not_known(config):
    config["alignments"] = {
        "dpo": {"target": [], "checkpoint": {"smollm2-135m": PLACE}, "control": "sft"},
        "sft": {"target": [], "adapter": {"smollm2-135m": PLACE}},
    }
    assert caveats.of(check(config)) == []
    for alignment in config["alignments"].values():
        alignment["target"] = ["Age"]
    notes = caveats.of(check(config))
    assert [note.split(":")[0] for note in notes] == ["alignments.dpo", "alignments.sft"]
    assert all("leakage is not known" in note for note in notes)
    for alignment in config["alignments"].values():
        alignment["trained_on"] = "ids.txt"
    assert caveats.of(check(config)) == []


PLACES = {
    "bbq.path": lambda c, path: c.update(bbq={"type": "path", "path": path}),
    "models.own.source.path": lambda c, path: c["models"].update(
        own={"source": {"type": "path", "path": path}}
    ),
    "alignments.given.adapter.smollm2-135m.path": lambda c, path: c["alignments"].update(
        given={"target": [], "adapter": {"smollm2-135m": {"type": "path", "path": path}}}
    ),
    "alignments.given.checkpoint.smollm2-135m.0.path": lambda c, path: c["alignments"].update(
        given={"target": [], "checkpoint": {"smollm2-135m": [{"type": "path", "path": path}]}}
    ),
}


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize(
    "place", ["resources/models/mine", "results/quickstart/x", "resources/bbq"]
)
def test_nothing_of_the_users_lies_where_rules_write(config, key, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path(place).mkdir(parents=True)
    Path("elsewhere").symlink_to(Path(place).parent)
    for path in (place, str(tmp_path / place), f"elsewhere/{Path(place).name}"):
        spoilt = copy.deepcopy(config)
        PLACES[key](spoilt, path)
        # alignments take a control's and other models' place: only paths are looked at here
        message = rf"^{re.escape(key)}: {re.escape(path)} lies in .*, where the workflow writes"
        with pytest.raises(InputError, match=message):
            user_paths.check_paths(filled(spoilt))


def test_each_seeds_path_is_looked_at(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    Path("resources/models/mine").mkdir(parents=True)
    places = [{"type": "path", "path": path} for path in ("resources/models/mine", "mine")]
    config["alignments"]["given"] = {"target": [], "adapter": {"smollm2-135m": places}}
    config["seeds"] = [0, 1]
    with pytest.raises(InputError, match=r"^alignments.given.adapter.smollm2-135m.0.path: resour"):
        user_paths.check_paths(filled(config))


def test_a_path_that_is_not_there_is_named_by_its_key(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    user_paths.check_paths(filled(config))
    PLACES["models.own.source.path"](config, "nowhere")
    with pytest.raises(InputError, match=r"^models.own.source.path: expected a folder, found non"):
        user_paths.check_paths(filled(config))
    # what another study made is no output of this one
    Path("results/other/adapter").mkdir(parents=True)
    del config["models"]["own"]
    PLACES["alignments.given.adapter.smollm2-135m.path"](config, "results/other/adapter")
    user_paths.check_paths(filled(config))


def test_checking_changes_nothing(config):
    before = copy.deepcopy(config)
    configuration.check(config, SCHEMA)
    assert config == before
    complete = check(config)
    before = copy.deepcopy(complete)
    study.check(complete, ATTRIBUTES)
    user_paths.check_paths(complete)
    caveats.of(complete)
    assert complete == before


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
