"""DPO over prefix trees against TRL's stock trainer: pairs a second and peak memory.

    python benchmarks/alignment.py [--model FOLDER] [--bbq FOLDER] [--format two_option]

One run, stock and shared in turn, each in a process of its own (peak memory is a process's),
with the same model, pairs, order, steps and settings.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
sys.path[0] = str(Path(__file__).parents[1] / "workflow" / "scripts")

import argparse
import json
import resource
import statistics
import subprocess
import tempfile
import time

REPOSITORY = Path(__file__).parents[1]


def measure(options: argparse.Namespace, kind: str) -> dict:
    """Train a few steps with one of the trainers; the first step warms up and is not timed."""
    import datasets
    import torch
    import yaml
    from spillover.alignment.encoding import encode
    from spillover.alignment.settings import LORA, OBJECTIVE, TRAINING, lora_config
    from spillover.alignment.trainer import ItemSampler, SharedTrainer, arguments
    from spillover.data import bbq, pairs
    from spillover.models.chat import TEMPLATE_SETTINGS
    from spillover.models.load import load_model, load_tokenizer
    from transformers import TrainerCallback
    from trl import DPOTrainer

    torch.set_num_threads(options.threads)
    pins = yaml.safe_load((REPOSITORY / "resources" / "bbq.yaml").read_text())
    data = (options.bbq / "Gender_identity.jsonl").read_bytes()
    metadata = (options.bbq / pins["metadata"]["file"]).read_bytes()
    pin = pins["attributes"]["Gender_identity"]
    items = bbq.prepare_items(data, metadata, "Gender_identity", pin)
    n_items = (options.steps + 1) * options.pairs_per_step // 2
    table = pairs.build_pairs(items, options.format, max_items=n_items + 3)[: 2 * n_items]

    class Stock(DPOTrainer):
        def _get_train_sampler(self, train_dataset=None):
            return ItemSampler(self.train_dataset["item_id"], self.args.seed)

        def _send_telemetry(self):
            pass

    class Clock(TrainerCallback):
        times = []  # noqa: RUF012

        def on_step_begin(self, *args, **kwargs):
            self.times.append((time.perf_counter(), time.process_time()))

        on_train_end = on_step_begin

    tokenizer = load_tokenizer(options.model)
    model = load_model(options.model, options.quantization, options.dtype, "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        args = arguments(
            OBJECTIVE,
            TRAINING | {"pairs_per_step": options.pairs_per_step},
            seed=0,
            folder=Path(scratch),
            device=torch.device("cpu"),
            gradient_checkpointing=False,
        )
        common = {
            "args": args,
            "processing_class": tokenizer,
            "peft_config": lora_config(LORA, model),
            "callbacks": [Clock()],
        }
        if kind == "stock":
            args.per_device_train_batch_size = options.stock_pairs_at_once
            args.gradient_accumulation_steps = options.pairs_per_step // options.stock_pairs_at_once
            template = {"chat_template_kwargs": TEMPLATE_SETTINGS}
            rows = [row | template for row in table.to_dict("records")]
            trainer = Stock(model, train_dataset=datasets.Dataset.from_list(rows), **common)
        else:
            rows = encode(table, tokenizer, max_length=1024)
            trainer = SharedTrainer(
                model,
                train_dataset=datasets.Dataset.from_list(rows),
                tokens_per_batch=options.tokens_per_batch,
                **common,
            )
        loaded = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        trainer.train()
    wall, cpu = (end - start for start, end in zip(Clock.times[1], Clock.times[-1], strict=True))
    n_pairs = options.steps * options.pairs_per_step
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return {
        "pairs_per_second": n_pairs / wall,
        "pairs_per_cpu_second": n_pairs / cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "loaded_mb": loaded / 1024,
        "losses": [entry["loss"] for entry in log],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path("resources/models/smollm2-135m"))
    parser.add_argument("--bbq", type=Path, default=Path("resources/bbq"), help="published files")
    parser.add_argument(
        "--format", default="cloze", choices=["cloze", "three_option", "two_option"]
    )
    parser.add_argument("--quantization", default="none", choices=["none", "nf4"])
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=4, help="timed steps")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--pairs-per-step", type=int, default=16)
    parser.add_argument("--stock-pairs-at-once", type=int, default=4)
    parser.add_argument("--tokens-per-batch", type=int, default=2048)
    parser.add_argument("--only", choices=["stock", "shared"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print("RESULT " + json.dumps(measure(options, options.only)))
        return
    found = {"stock": [], "shared": []}
    for repetition in range(options.repetitions):
        for kind, results in found.items():
            done = subprocess.run(
                [sys.executable, __file__, *sys.argv[1:], "--only", kind],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                sys.exit(done.stderr)
            line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT "))
            results.append(json.loads(line.removeprefix("RESULT ")))
            print(
                f"{repetition + 1} {kind:6}  {results[-1]['pairs_per_second']:6.3f} pairs/s  "
                f"{results[-1]['pairs_per_cpu_second']:6.3f} pairs a CPU second  "
                f"peak {results[-1]['peak_mb']:5.0f} MB "
                f"({results[-1]['loaded_mb']:.0f} MB before training)",
                flush=True,
            )
    peak = {kind: max(r["peak_mb"] for r in results) for kind, results in found.items()}
    print(f"{options.format}, {options.quantization}, {options.dtype}: shared against stock")
    # The second is nearly free of what else the machine does.
    for what in ("pairs_per_second", "pairs_per_cpu_second"):
        ratios = [
            shared[what] / stock[what]
            for stock, shared in zip(found["stock"], found["shared"], strict=True)
        ]
        print(
            f"  {what}: {statistics.median(ratios):.2f} times "
            f"({min(ratios):.2f} to {max(ratios):.2f} over {len(ratios)} repetitions)"
        )
    print(f"  peak memory: {peak['shared']:.0f} against {peak['stock']:.0f} MB")


if __name__ == "__main__":
    main()
