"""Bad input ends with one clear line, a non-zero exit and nothing half-written."""

import json

import pytest
from test_study import study


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


def test_missing_data_are_told_before_any_model_runs(workflow, tiny_folder, tmp_path):
    workflow.configure(study(tmp_path / "nowhere", {"llama": tiny_folder("llama")}))
    one_line(workflow.run(check=False), "nowhere")


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
            "the model needs code of its own",
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
