"""The plan of a study against its parts, added up by hand."""

import pandas as pd
import pytest
from spillover import study_plan
from spillover.alignment.settings import skeleton
from spillover.data import pairs as preference
from spillover.data import samples
from spillover.models.load import load_tokenizer
from spillover.models.tokens import encode_continuations
from spillover.scoring.tokens import count
from study_files import filled

MACHINE = {
    "gpu_memory": None,
    "gpu_tflops": 1e-3,
    "tokens_per_batch": None,
    "training_tokens_per_batch": None,
}
NAMES = ["Gender_identity", "Religion"]


@pytest.fixture(scope="module")
def items(bbq_items):
    return pd.concat(map(bbq_items, NAMES), ignore_index=True)


def study(alignments: dict, **model) -> dict:
    source = {"type": "path", "path": "somewhere"}
    return filled(
        {
            "study": "planned",
            "models": {"tiny": {"source": source, "dtype": "float32"} | model},
            "alignments": alignments,
            "seeds": [0, 1],
            "evaluation": {"attributes": NAMES, "blocks_per_attribute": 3},
        }
    )


def test_seconds_are_tokens_by_parameters_and_the_start(tiny_folder, items):
    folder = tiny_folder("llama")
    gender = {"target": ["Gender_identity"], "training": {"pairs_per_step": 4}}
    gender_items = items[items["attribute"] == "Gender_identity"]
    train, heldout = samples.split_heldout(gender_items, "template", 0.2, 0)
    training, jobs, text = study_plan.plan(
        study({"gender": gender}, quantization="none"),
        {"tiny": folder},
        items=items,
        pairs={"gender": preference.build_pairs(train.head(8), "cloze")},
        heldout={"gender": heldout},
        sets={},
        machine=MACHINE,
    )
    assert jobs["rule"].value_counts().to_dict() == {
        "score_items": 3,
        "train_dpo": 2,
        "diagnose_alignment": 2,
    }
    n_bytes = (folder / "model.safetensors").stat().st_size
    assert jobs["bytes_read"].eq(n_bytes).all()
    factor = jobs["rule"].map({"train_dpo": 8}).fillna(2)
    n_parameters = skeleton(folder).num_parameters()
    expected = 5 + n_bytes / 1e9 + factor * jobs["tokens"] * n_parameters / 1e9
    assert jobs["seconds"].to_numpy() == pytest.approx(expected.to_numpy())
    by_rule = jobs.groupby("rule")["tokens"]
    assert by_rule.get_group("train_dpo").eq(training["tokens"].item()).all()
    asked = samples.asked_items(items, [heldout], 3)
    tokenizer, cloze = load_tokenizer(folder), {"scoring": "cloze"}
    n_tokens = sum(count(part, tokenizer, cloze) for _, part in asked.groupby("attribute"))
    assert by_rule.get_group("score_items").eq(n_tokens).all()
    assert "7 times, once a job" in text
    assert f"{3 * n_tokens} in scoring" in text
    assert "counted on all items" in text
    assert "assumed: a GPU sustains 0.001 TFLOP/s" in text
    assert "on 1, 2, 4, 8 GPUs: " in text
    line = text.splitlines()[-1]
    times = [float(word.strip(",;")) for word in line.split("GPUs: ")[1].split()[:4]]
    assert times == sorted(times, reverse=True)
    seconds = dict(zip(jobs["rule"], jobs["seconds"], strict=True))
    least = seconds["train_dpo"] + max(seconds["score_items"], seconds["diagnose_alignment"])
    assert line.endswith(f"below {least:.1f} s")


def test_companion_sets_are_counted_once_for_all_runs(tiny_folder, items):
    gender = {"target": ["Gender_identity"], "training": {"pairs_per_step": 4}}
    half = {"derive": {"from": "gender", "strength": 0.5}, "target": ["Gender_identity"]}
    config = study({"gender": gender}, quantization="none")
    config["companions"]["sets"] = ["winogender"]
    config["alignments"]["half"] = config["alignments"]["gender"] | half
    gender_items = items[items["attribute"] == "Gender_identity"]
    train, heldout = samples.split_heldout(gender_items, "template", 0.2, 0)
    texts = pd.DataFrame(
        {
            "item_id": ["w:0", "w:1"],
            "block": ["0", "0"],
            "context": ["He spoke. He is the"] * 2,
            "question": "",
            "options": [["grandson", "store"], ["grandson", "context"]],
        }
    )
    _, jobs, text = study_plan.plan(
        config,
        {"tiny": tiny_folder("llama")},
        items=items,
        pairs={"gender": preference.build_pairs(train.head(8), "cloze")},
        heldout={"gender": heldout, "half": heldout},
        sets={"winogender": texts},
        machine=MACHINE,
    )
    tokens = jobs[jobs["rule"] == "score_companions"].set_index("run")["tokens"]
    asked, said = encode_continuations(
        load_tokenizer(tiny_folder("llama")),
        texts["context"][0],
        [" grandson", " store", " context"],
    )
    # Of what all share every token, and of each option all tokens but the last.
    once = len(asked) + sum(len(option) - 1 for option in said)
    assert tokens["base"] == tokens["gender/seed0"] == tokens["gender/seed1"] == once
    assert tokens["half/seed0"] == 2 * once
    assert "in companion sets" in text


def test_a_study_of_the_models_as_they_are_has_a_plan(tiny_folder, items):
    training, jobs, text = study_plan.plan(
        study({}),
        {"tiny": tiny_folder("llama")},
        items=items,
        pairs={},
        heldout={},
        sets={},
        machine=MACHINE,
    )
    assert training.empty
    assert list(training) == ["model", "alignment"]
    assert jobs["rule"].tolist() == ["quantize_model", "score_items"]
    assert text.startswith("jobs that load a model: 1 quantize_model, 1 score_items\n")
    assert "diagnosis" not in text


def test_a_study_of_answers_made_elsewhere_loads_nothing(items):
    config = study({})
    config["models"] = {"given": {"predictions": {"base": "answers.csv"}}}
    _, jobs, text = study_plan.plan(
        config, {}, items=items, pairs={}, heldout={}, sets={}, machine=MACHINE
    )
    assert jobs.empty
    assert text == "no job loads a model\n"


def test_many_items_are_counted_on_a_sample(tiny_folder, items, monkeypatch):
    config = study({}, quantization="none")
    config["evaluation"]["blocks_per_attribute"] = 20

    def plan():
        _, jobs, text = study_plan.plan(
            config,
            {"tiny": tiny_folder("llama")},
            items=items,
            pairs={},
            heldout={},
            sets={},
            machine=MACHINE,
        )
        return jobs["tokens"].item(), text

    whole, text = plan()
    assert "counted on all items" in text
    monkeypatch.setattr(study_plan, "BLOCKS_COUNTED", 10)
    scaled, text = plan()
    assert "counted on 80 of 160 items, and scaled" in text
    assert scaled == pytest.approx(whole, rel=0.1)
    config["evaluation"] |= {"scoring": "generate", "option_orders": "given"}
    assert "scoring at most, if every answer has 32" in plan()[1]
