"""Bad input ends with one clear line, a non-zero exit and nothing half-written."""

import json
import shutil
import subprocess
import sys

import pytest
from small_study import study


def one_line(done, message: str) -> None:
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if message in line]
    assert lines, done.stderr
    assert "Traceback" not in done.stderr


def test_a_misspelt_key_stops_before_anything_runs(workflow, published, tiny_folder):
    config = study(published, {"llama": tiny_folder("llama")})
    config["evaluation"]["blocks_per_atribute"] = config["evaluation"].pop("blocks_per_attribute")
    workflow.configure(config)
    done = workflow.run("-n", check=False)
    one_line(done, "study.yaml: evaluation: unknown key 'blocks_per_atribute'; the nearest")
    assert not (workflow.folder / "results").exists()


def test_a_study_file_stands_for_itself(workflow, published, tiny_folder):
    workflow.configure(study(published, {"llama": tiny_folder("llama")}))
    done = workflow.run("-n")
    assert "smollm2" not in done.stdout + done.stderr
    assert "quickstart" not in done.stdout + done.stderr


def test_what_is_not_there_is_told_by_its_key_before_anything_runs(
    workflow, published, tiny_folder, tmp_path
):
    workflow.configure(study(tmp_path / "nowhere", {"llama": tiny_folder("llama")}))
    one_line(workflow.run("-n", check=False), "study.yaml: bbq.path: expected a folder, found non")
    workflow.configure(study(published, {"llama": tmp_path / "nowhere"}))
    one_line(workflow.run("-n", check=False), "study.yaml: models.llama.source.path: expected a")


def test_the_command_line_is_blamed_for_what_it_says(workflow, published, tiny_folder):
    workflow.configure(study(published, {"llama": tiny_folder("llama")}))
    one_line(workflow.run("-n", "--config", "study=2024", check=False), "--config study=2024: stud")
    one_line(workflow.run("-n", "--config", "stdy=a", check=False), "--config stdy=a: the configur")
    config = study(published, {"llama": tiny_folder("llama")}) | {"seeds": []}
    workflow.configure(config)
    one_line(workflow.run("-n", "--config", "study=a", check=False), "study.yaml: seeds")


def test_nothing_of_the_users_is_deleted(workflow, published, tiny_folder):
    """A source in the place of an output is refused, and stays as it is."""
    bbq = workflow.folder / "resources/bbq"
    shutil.copytree(published, bbq)
    model = workflow.folder / "resources/models/llama"
    shutil.copytree(tiny_folder("llama"), model)
    before = sorted((file, file.stat().st_mtime_ns) for file in workflow.folder.rglob("*"))
    workflow.configure(study("resources/bbq", {"other": tiny_folder("llama")}))
    one_line(workflow.run(check=False), "bbq.path: resources/bbq lies in resources/bbq, where the")
    workflow.configure(study(published, {"llama": model}))
    one_line(workflow.run(check=False), "lies in resources/models, where the workflow writes")
    after = [(file, time) for file, time in before if file.exists()]
    assert [
        file for file, time in after if file.stat().st_mtime_ns != time and file.is_file()
    ] == []
    assert len(after) == len(before)


def test_another_working_directory_does(workflow, published, tiny_folder, tmp_path):
    config = study(published, {"llama": tiny_folder("llama")})
    config["alignments"], config["evaluation"]["attributes"] = {}, ["Religion"]
    away = tmp_path / "my studies"
    away.mkdir()
    workflow.folder = away
    checkout = tmp_path / "checkout"
    workflow.configure(config)
    workflow.run("tables", "--snakefile", str(checkout / "Snakefile"))
    assert (away / "results/tiny/metrics.tsv").is_file()
    # without a study, the default one of the checkout
    command = [sys.executable, "-m", "snakemake", "-n", "-s", str(checkout / "Snakefile")]
    done = subprocess.run(command, cwd=away, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "results/quickstart/metrics.tsv" in done.stdout + done.stderr


def test_a_models_fault_is_told_by_the_users_key_and_place(workflow, published, tiny_copy):
    folder = tiny_copy()
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    workflow.configure(study(published, {"llama": folder}))
    done = workflow.run("resources/models/llama", check=False)
    one_line(
        done,
        f"models.llama.source: {folder}/model.safetensors: expected weights, found a git-LFS",
    )


def test_a_cache_that_was_deleted_is_told_in_one_line(workflow, published, tiny_copy):
    folder = tiny_copy()
    workflow.configure(study(published, {"llama": folder}))
    target = "results/tiny/llama/base/predictions/Religion.parquet"
    workflow.run("resources/models/llama", "results/tiny/items/Religion.parquet")
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    # As with the hub's cache, of which Snakemake knows nothing: no job notices but scoring.
    done = workflow.run(target, "--rerun-triggers", "code", check=False)
    one_line(done, "which is gone; delete resources/models/llama to have it fetched again")


def test_a_truncated_data_file_leaves_no_data(workflow, published, tiny_folder, tmp_path):
    folder = tmp_path / "clone"
    folder.mkdir()
    for file in published.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[:-40] if file.name == "SES.jsonl" else data)
    workflow.configure(study(folder, {"llama": tiny_folder("llama")}))
    done = workflow.run("resources/bbq/SES.jsonl", check=False)
    one_line(done, "SES.jsonl: not the published BBQ file: expected sha256 6c294ae7")
    assert not list((workflow.folder / "resources/bbq").glob("*.jsonl"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "expected a tokenizer"),
        (
            lambda folder: (folder / "config.json").write_text(json.dumps({"auto_map": {}})),
            "models.llama.source: ",
        ),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_when_fetched(
    workflow, published, tiny_copy, spoil, message
):
    folder = tiny_copy()
    spoil(folder)
    workflow.configure(study(published, {"llama": folder}))
    one_line(workflow.run("resources/models/llama", check=False), message)
    assert not (workflow.folder / "resources/models/llama").exists()


def test_a_gpu_that_is_not_there_is_told_before_a_model_is_loaded(workflow, published, tiny_folder):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    config = study(published, {"llama": tiny_folder("llama")}) | {"machine": {"device": "cuda"}}
    workflow.configure(config)
    target = "results/tiny/llama/base/predictions/Religion.parquet"
    one_line(workflow.run(target, check=False), "machine.device: cuda is asked for")
    assert not (workflow.folder / target).exists()
