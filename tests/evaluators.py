"""Files of answers as other evaluators write them, made by running those on a tiny model.

``python tests/evaluators.py BBQ_FOLDER`` makes the samples in ``tests/data/answers/`` anew.
lm_eval, inspect_ai and every_eval_ever are no dependencies of the workflow.
"""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import tiny_models
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLES = Path(__file__).parent / "data" / "answers"
# One block of each: ambiguous and disambiguated, both polarities.
ASKED = {"Age": range(40, 44), "Religion": range(8, 12)}


def rows(bbq_files: dict[str, bytes]) -> list[dict]:
    """The published rows that are asked."""
    return [
        json.loads(line)
        for attribute, ids in ASKED.items()
        for line in bbq_files[f"{attribute}.jsonl"].decode().splitlines()
        if json.loads(line)["example_id"] in ids
    ]


def answering_model(folder: Path, asked: list[dict]) -> Path:
    """A tiny model that was taught how to answer, and nothing of what is right.

    In a conversation it says ANSWER: and a letter, behind a plain question one of the options.
    """
    # Inspect looks up the text of every token that the model can give.
    tiny_models.make(folder, "llama", vocab_size=len(tiny_models.tokenizer()))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        row = asked[torch.randint(len(asked), (1,), generator=generator).item()]
        texts, prompts = [], []
        for letter in "ABC":
            order = torch.randperm(3, generator=generator).tolist()
            options = [row[f"ans{option}"] for option in order]
            question = f"{row['context']}\n\nQuestion: {row['question']}\n\n"
            question += "\n".join(f"{a}) {text}" for a, text in zip("ABC", options, strict=True))
            message = [{"role": "user", "content": f"in the format 'ANSWER: $LETTER' {question}"}]
            chat = tokenizer.apply_chat_template(
                message, tokenize=False, add_generation_prompt=True
            )
            plain = f"{row['context']}\n\nQ: {row['question']}\nA:"
            prompts += [chat, plain]
            texts += [f"{chat}ANSWER: {letter}<|im_end|>", f"{plain} {options[0]}<|im_end|>"]
        batch = tokenizer(texts, return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        for label, prompt in zip(labels, prompts, strict=True):
            label[: len(tokenizer(prompt)["input_ids"])] = -100
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def run_lm_eval(model: Path, asked: list[dict], folder: Path, task: str, **options) -> Path:
    """``samples_*.jsonl`` of lm-eval's own task over local rows; nothing else of it is changed."""
    import lm_eval
    from lm_eval import tasks
    from lm_eval.loggers import EvaluationTracker

    (folder / "bbq").mkdir(parents=True)
    data = folder / "bbq.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in asked))
    for file in (Path(tasks.__file__).parent / "bbq").iterdir():
        if file.suffix in (".py", ".yaml"):
            text = file.read_text().replace(
                "dataset_path: oskarvanderwal/bbq\ndataset_name: All",
                f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}",
            )
            (folder / "bbq" / file.name).write_text(text)
    results = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[task],
        task_manager=tasks.TaskManager(include_path=str(folder / "bbq"), include_defaults=False),
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    tracker = EvaluationTracker(output_path=str(folder / "out"))
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    tracker.save_results_samples(task_name=task, samples=samples[task])
    return next((folder / "out").rglob("samples_*.jsonl"))


def run_inspect(
    model: Path, asked: list[dict], folder: Path, log_format: str, shuffle: int | None = None
) -> Path:
    """Log of a multiple choice task whose samples are as in inspect_evals' ``bbq``."""
    import inspect_ai
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.scorer import choice
    from inspect_ai.solver import multiple_choice

    dataset = MemoryDataset(
        [
            Sample(
                input=f"Context: {row['context']}\n\nQuestion: {row['question']}",
                target="ABC"[row["label"]],
                choices=[row["ans0"], row["ans1"], row["ans2"]],
                id=f"{row['category']}_{row['example_id']:05d}",
                metadata={"source_id": row["example_id"], "category": row["category"]},
            )
            for row in asked
        ]
    )
    if shuffle is not None:
        dataset.shuffle_choices(seed=shuffle)
    [log] = inspect_ai.eval(
        inspect_ai.Task(dataset=dataset, solver=multiple_choice(), scorer=choice(), name="bbq"),
        model="hf/tiny",
        model_args={"model_path": str(model), "device": "cpu", "do_sample": False},
        log_dir=str(folder),
        log_format=log_format,
        display="none",
        max_tokens=10,
        logprobs=True,
        top_logprobs=5,
    )
    assert log.status == "success", log.error.message
    return Path(log.location.removeprefix("file://"))


def convert_lm_eval(samples: Path, folder: Path) -> Path:
    """Samples of Every Eval Ever by its own converter.

    Not by its command: that refuses lm-eval's results where a set of BBQ was not asked (NaN).
    """
    from every_eval_ever.converters.lm_eval.instance_level_adapter import LMEvalInstanceLevelAdapter

    logs = LMEvalInstanceLevelAdapter().transform_samples(
        samples, "bbq/none/tiny/0", "none/tiny", "bbq"
    )
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text("".join(log.model_dump_json() + "\n" for log in logs))
    return folder / "samples.jsonl"


def convert_inspect(log: Path, folder: Path) -> Path:
    """Samples of Every Eval Ever by its own converter."""
    command = [sys.executable, "-m", "every_eval_ever", "convert", "inspect"]
    command += ["--log_path", str(log), "--output_dir", str(folder / "data")]
    command += ["--source_organization_name", "none"]
    subprocess.run(command, check=True)
    return next(folder.rglob("*_samples.jsonl"))


def main(bbq: Path) -> None:
    """Make the samples anew, from a folder of BBQ's files and in the current folder.

    Evaluators record where they ran: start it in an empty one, outside of a checkout.
    """
    asked = rows({file.name: file.read_bytes() for file in bbq.glob("*.jsonl")})
    work = Path("work")
    model = answering_model(work / "model", asked)
    made = {
        "lm_eval_bbq.jsonl": run_lm_eval(model, asked, work / "bbq", "bbq"),
        "lm_eval_bbq_generate.jsonl": run_lm_eval(model, asked, work / "generate", "bbq_generate"),
        "inspect.json": run_inspect(model, asked, work / "inspect", "json"),
        "inspect.eval": run_inspect(model, asked, work / "eval", "eval"),
        "inspect_shuffled.json": run_inspect(model, asked, work / "shuffled", "json", shuffle=1),
    }
    made |= {
        "every_eval_ever_of_lm_eval.jsonl": convert_lm_eval(made["lm_eval_bbq.jsonl"], work / "e1"),
        "every_eval_ever_of_inspect.jsonl": convert_inspect(made["inspect.json"], work / "e2"),
    }
    SAMPLES.mkdir(parents=True, exist_ok=True)
    for name, file in made.items():
        data = file.read_bytes()
        if file.suffix == ".eval":
            (SAMPLES / name).write_bytes(data)
        else:
            (SAMPLES / f"{name}.gz").write_bytes(gzip.compress(data, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
