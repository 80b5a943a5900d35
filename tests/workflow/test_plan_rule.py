"""The plan of whole studies: its jobs are those that Snakemake plans."""

import json
from collections import Counter

import pandas as pd
import pytest
from small_study import study
from spillover.jobs import jobs_of
from study_files import STUDIES, filled, read

RULES = [
    "quantize_model",
    "answer_prompts",
    "train_dpo",
    "diagnose_alignment",
    "score_items",
    "score_companions",
]


def compare(workflow, config: dict) -> None:
    """The jobs of a study against ``snakemake -n``."""
    workflow.configure(config)
    planned = workflow.planned()
    jobs = jobs_of(filled(config))
    assert Counter(job.rule for job in jobs) == {
        rule: planned[rule] for rule in RULES if rule in planned
    }
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    assert all(set(job.needs) <= set(names[:at]) for at, job in enumerate(jobs))


@pytest.mark.parametrize("name", STUDIES)
def test_jobs_of_the_studies_that_come_along(shared_workflow, name):
    compare(shared_workflow, read(name))


@pytest.fixture
def elsewhere(published, tiny_folder, tmp_path):
    """Two models, one quantised, aligned in every way that there is, for three seeds."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_text("{}")
    config = study(published, {"llama": tiny_folder("llama"), "nf4": tiny_folder("llama")})
    adapter, folder = (
        {"type": "path", "path": str(path)} for path in (tmp_path, tiny_folder("llama"))
    )
    known = {"target": ["Gender_identity"]}
    config["seeds"] = [0, 1, 2]
    config["companions"] = {"sets": ["piqa"]}
    config["alignments"] |= {
        "adapter": known | {"adapter": {"llama": adapter, "nf4": [adapter] * 3}},
        "no-target": {"target": [], "adapter": {"llama": adapter, "nf4": adapter}},
        "merged": known | {"checkpoint": {"llama": folder, "nf4": folder}},
        "each-merged": known | {"checkpoint": {"llama": folder, "nf4": [folder] * 3}},
    }
    return json.loads(json.dumps(config))


def test_jobs_of_alignments_made_elsewhere(workflow, elsewhere):
    compare(workflow, elsewhere)
    kinds = Counter(job.rule for job in jobs_of(filled(elsewhere)))
    # nf4 and its checkpoints; two trained; three with items to try an adapter on; six and a base
    assert kinds == {
        "quantize_model": 1 + 1 + 3,
        "train_dpo": 2 * 2 * 3,
        "diagnose_alignment": 2 * 3 * 3,
        "score_items": 2 * (1 + 6 * 3),
        "score_companions": 2 * (1 + 6 * 3),
    }


def test_answers_made_elsewhere_load_no_model(elsewhere):
    elsewhere["models"]["given"] = {"predictions": {"base": "answers.csv"}}
    assert not [job for job in jobs_of(filled(elsewhere)) if job.model == "given"]


def test_the_plan_is_made_and_alone_depends_on_the_machines_rate(workflow, published, tiny_folder):
    config = study(published, {"llama-nf4": tiny_folder("llama")})
    workflow.configure(config)
    before = workflow.planned()
    workflow.run("plan")
    jobs = pd.read_csv(workflow.folder / "results/tiny/plan_jobs.tsv", sep="\t")
    assert jobs["rule"].value_counts().to_dict() == {
        rule: before[rule] for rule in RULES if rule in before
    }
    text = (workflow.folder / "results/tiny/plan.txt").read_text()
    assert "jobs that load a model: 1 quantize_model" in text
    assert "no more GPUs help below" in text
    left = workflow.planned()
    assert workflow.planned("plan") == {}
    config["machine"] |= {"gpu_tflops": 200, "gpu_memory": 24, "tokens_per_batch": 512}
    workflow.configure(config)
    assert workflow.planned("plan") == {"plan_study": 1, "plan": 1}
    assert workflow.planned() == left
