"""Alignments made elsewhere: an adapter and a checkpoint take training's place, and count alike."""

import hashlib
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, PeftModel
from small_study import study
from spillover.data import pairs as preference
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

SCORES = ["logp_0", "logp_1", "logp_2"]


def trained_by_trl(folder: Path, pairs: pd.DataFrame, scratch: Path) -> Path:
    """An adapter as anybody trains one: TRL's trainer as it comes, PEFT's way of saving."""
    trainer = DPOTrainer(
        str(folder),
        args=DPOConfig(
            output_dir=str(scratch / "trainer"),
            per_device_train_batch_size=8,
            learning_rate=1e-2,
            max_steps=3,
            bf16=False,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
        ),
        train_dataset=datasets.Dataset.from_pandas(pairs.drop(columns="item_id")),
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    trainer.train()
    trainer.save_model(scratch / "adapter")
    return scratch / "adapter"


def merged(folder: Path, adapter: Path, place: Path) -> Path:
    """The whole aligned model, merged by PEFT, with the base's tokenizer beside it."""
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def fingerprints(*folders: Path) -> dict[Path, str]:
    return {
        file: hashlib.sha256(file.read_bytes()).hexdigest()
        for folder in folders
        for file in sorted(folder.iterdir())
    }


@pytest.fixture(scope="module")
def made(tiny_folder, bbq_items, tmp_path_factory):
    """A base, an adapter of it, the two merged, and the items that were trained on."""
    folder, scratch = tiny_folder("llama"), tmp_path_factory.mktemp("elsewhere")
    items = bbq_items("Gender_identity").head(80)
    pairs = preference.build_pairs(items, "cloze")
    adapter = trained_by_trl(folder, pairs, scratch)
    (scratch / "trained_on.txt").write_text("\n".join(items["item_id"]))
    return folder, adapter, merged(folder, adapter, scratch / "merged"), scratch / "trained_on.txt"


@pytest.fixture(scope="module")
def config(made, published):
    folder, adapter, checkpoint, trained_on = made
    known = {"target": ["Gender_identity"], "trained_on": str(trained_on)}
    config = study(published, {"llama": folder})
    config["alignments"] = {
        "adapter": known | {"adapter": {"llama": {"type": "path", "path": str(adapter)}}},
        "merged": known | {"checkpoint": {"llama": [{"type": "path", "path": str(checkpoint)}]}},
    }
    config["alignments"]["adapter"]["control"] = "merged"
    return config


@pytest.fixture(scope="module")
def finished(shared_workflow, config, made):
    _, adapter, checkpoint, _ = made
    before = fingerprints(adapter, checkpoint)
    shared_workflow.configure(config)
    done = shared_workflow.run()
    assert fingerprints(adapter, checkpoint) == before
    shared_workflow.output = done.stdout + done.stderr
    return shared_workflow


def predictions(workflow, run: str, attribute: str = "Religion") -> pd.DataFrame:
    path = f"results/tiny/llama/{run}/predictions/{attribute}.parquet"
    return pd.read_parquet(workflow.folder / path)


def test_adapter_and_merged_checkpoint_answer_alike_and_not_as_their_base(finished):
    for attribute in ("Religion", "Gender_identity"):
        adapter = predictions(finished, "adapter/seed0", attribute)
        checkpoint = predictions(finished, "merged/seed0", attribute)
        assert adapter["item_id"].tolist() == checkpoint["item_id"].tolist()
        np.testing.assert_allclose(adapter[SCORES], checkpoint[SCORES], atol=1e-4)
        assert adapter["predicted"].tolist() == checkpoint["predicted"].tolist()
    base = predictions(finished, "base").set_index("item_id")
    same = base.loc[predictions(finished, "adapter/seed0")["item_id"], SCORES]
    assert np.abs(same - predictions(finished, "adapter/seed0")[SCORES].to_numpy()).max().max() > 1


def test_what_was_trained_on_is_not_evaluated(finished, made):
    trained_on = set(made[3].read_text().split())
    for run in ("adapter/seed0", "merged/seed0"):
        assert not trained_on & set(predictions(finished, run, "Gender_identity")["item_id"])
    assert "leakage is not known" not in finished.output


def test_unknown_leakage_is_said_before_anything_runs(workflow, config):
    config = json.loads(json.dumps(config))
    for alignment in config["alignments"].values():
        del alignment["trained_on"]
    workflow.configure(config)
    done = workflow.run("-n")
    assert "alignments.merged: was made elsewhere" in done.stdout + done.stderr
    assert "leakage is not known" in done.stdout + done.stderr


def test_every_table_has_them_as_those_trained_here(finished):
    folder = finished.folder / "results/tiny"
    spillover = pd.read_csv(folder / "spillover.tsv", sep="\t")
    assert len(spillover) == 2 * 2 * 2
    assert spillover.loc[spillover["targeted"], "attribute"].unique() == ["Gender_identity"]
    contrasts = pd.read_csv(folder / "contrasts.tsv", sep="\t")
    assert contrasts["difference"].abs().max() < 1e-9
    assert (folder / "figures/accuracy_change_adapter.svg").is_file()
    run = folder / "llama/adapter/seed0"
    diagnostics = pd.read_csv(run / "diagnostics.tsv", sep="\t")
    assert len(diagnostics)
    assert not (run / "training.tsv").exists()
    assert not (folder / "llama/merged/seed0/diagnostics.tsv").exists()


def test_what_is_the_users_is_linked_and_noticed(finished, made):
    link = finished.folder / "results/tiny/llama/adapter/seed0/adapter/adapter_model.safetensors"
    assert link.resolve() == (made[1] / "adapter_model.safetensors").resolve()
    assert finished.planned() == {}


def test_a_checkpoint_is_quantised_as_its_base_and_asked_in_its_own_way(
    workflow, config, made, tmp_path
):
    config = json.loads(json.dumps(config))
    config["models"]["llama"]["quantization"] = "nf4"
    config["alignments"] = {"merged": config["alignments"]["merged"]}
    config["evaluation"] |= {"attributes": ["Gender_identity"], "blocks_per_attribute": 1}
    workflow.configure(config)
    planned = workflow.planned("predictions")
    assert planned["fetch_model"] == planned["quantize_model"] == planned["score_items"] == 2
    # spoken to in its own way, which is said
    own = Path(shutil.copytree(made[2], tmp_path / "own"))
    template = own / "chat_template.jinja"
    template.write_text("Be fair.\n" + template.read_text())
    config["alignments"] = {
        "own": {"target": [], "checkpoint": {"llama": {"type": "path", "path": str(own)}}}
    }
    workflow.configure(config)
    done = workflow.run("results/tiny/llama/own/seed0/predictions/Gender_identity.parquet")
    assert "which differs from its base's in its chat template" in done.stdout + done.stderr
    record = workflow.folder / "resources/models/llama@own.nf4/quantized.json"
    assert json.loads(record.read_text())["quantization"] == "nf4"


def test_an_adapter_of_another_shape_is_refused_before_anything_is_scored(
    workflow, config, made, tmp_path
):
    adapter = Path(shutil.copytree(made[1], tmp_path / "adapter"))
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(settings | {"r": 4}))
    config = json.loads(json.dumps(config))
    place = {"type": "path", "path": str(adapter)}
    config["alignments"] = {"wrong": {"target": [], "adapter": {"llama": place}}}
    workflow.configure(config)
    target = "results/tiny/llama/wrong/seed0/adapter/adapter_model.safetensors"
    done = workflow.run(target, check=False)
    assert done.returncode != 0
    assert f"alignments.wrong.adapter.llama: {adapter}/adapter_model.safetensors: expected" in (
        done.stdout + done.stderr
    )
    assert not (workflow.folder / target).exists()
    assert (adapter / "adapter_model.safetensors").is_file()
