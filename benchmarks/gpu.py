"""What only a GPU can show: its numbers against a CPU's, its speed, its memory against the plan.

    python benchmarks/gpu.py --model resources/models/smollm2-135m

``agree``  NF4 weights unpacked, and log-probabilities, on the GPU and on the CPU.
``score``  tokens a second of a 7B to 8B model in NF4, shared prefixes against plain batches.
``train``  tokens a second of its training, and its memory at the peak against the plan's.

The large model has an architecture's published shape (``--shape``) and random weights, which
cost the same; its tokenizer is that of ``--model``, and so are the tokens of an item.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# This folder comes last: its statistics.py would hide the standard library's.
sys.path[:1] = [str(ROOT / "workflow" / "scripts")]
sys.path.append(str(Path(__file__).parent))

import argparse
import gc
import logging
import tempfile
import time

import numpy as np
import pandas as pd
import plan as plans
import scoring as bench
import torch
from bitsandbytes.functional import dequantize_4bit
from spillover.alignment import plan as training_plan
from spillover.alignment import train as training
from spillover.alignment.settings import skeleton
from spillover.data import pairs as preference
from spillover.data import prompts, samples
from spillover.models import quantize as quantizing
from spillover.models.load import load_model, load_tokenizer
from spillover.models.size import active_parameters
from spillover.scoring import engine
from spillover.scoring.cloze import Cloze
from spillover.scoring.letter import Letter
from spillover.study_plan import FORWARD, TRAINING
from transformers import AutoConfig, AutoModelForCausalLM

# Tokens of a training's pass; format, pairs a step, shared prefixes, gradient checkpointing.
TOKENS = 8192
CASES = [
    ("three_option", 32, True, True),
    ("three_option", 32, False, True),
    ("three_option", 32, True, False),
    ("three_option", 256, True, True),
    ("three_option", 256, True, False),
    ("cloze", 32, True, True),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resources/models/smollm2-135m")
    parser.add_argument("--items", default="results/quickstart/items", help="*.parquet, or")
    parser.add_argument("--bbq", default="resources/bbq", help="published files, if there are none")
    parser.add_argument("--shape", default="llama-3.1-8b", choices=list(plans.SHAPES))
    parser.add_argument("--layers", type=int, help="fewer than the shape has")
    parser.add_argument("--blocks", type=int, default=72, help="of four items")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    logging.getLogger("spillover").setLevel(logging.WARNING)
    card = torch.cuda.get_device_properties(0)
    print(f"torch {torch.__version__}, {card.name}, {card.total_memory / 1e9:.1f} GB", flush=True)
    items = bench.read_items(arguments)
    with tempfile.TemporaryDirectory() as folder:
        large = None
        for name in arguments.only:
            print(f"\n{name}", flush=True)
            if name == "agree":
                agree(arguments, items, Path(folder))
            else:
                large = large or write(arguments, Path(folder))
                PARTS[name](arguments, items, large)


# ------------------------------------------------------------------ against the CPU


def agree(arguments, items: pd.DataFrame, folder: Path) -> None:
    """The same weights unpacked, and the same questions, on both."""
    items = bench.sample(items, arguments.blocks)
    tokenizer = load_tokenizer(arguments.model)
    for quantization, dtype in (("none", "float32"), ("nf4", "float32"), ("nf4", "bfloat16")):
        source = arguments.model
        if quantization == "nf4":
            source = folder / dtype
            quantizing.quantize(arguments.model, source, dtype)
        models = {
            device: load_model(source, quantization, dtype, device) for device in ("cpu", "cuda")
        }
        name = f"{quantization}, {dtype}"
        if quantization == "nf4":
            unpacked = [dict(_unpacked(model)) for model in models.values()]
            worst = max((one - unpacked[1][key]).abs().max() for key, one in unpacked[0].items())
            print(f"{name}: {len(unpacked[0])} matrices unpacked, largest difference {worst:.1e}")
        for mode in (Letter(tokenizer, prompts.ORDERS["given"]), Cloze(tokenizer)):
            answers = {
                device: bench.run_mode(mode, engine.Engine(model), items)
                for device, model in models.items()
            }
            plain = bench.run_mode(mode, bench.WithoutTrees(models["cuda"], 4096), items)
            kind = type(mode).__name__.lower()
            print(f"{name}, {kind}: {_difference(answers['cpu'], answers['cuda'])}")
            print(
                f"{name}, {kind}, shared against plain on the GPU: "
                f"{_difference(plain, answers['cuda'])}",
                flush=True,
            )


def _unpacked(model: torch.nn.Module):
    """The weights of a model's NF4 layers as they are computed with, float32 on the CPU."""
    for name, parameter in model.named_parameters():
        if type(parameter).__name__ == "Params4bit":
            yield name, dequantize_4bit(parameter.data, parameter.quant_state).float().cpu()


def _difference(one: list[dict], other: list[dict]) -> str:
    gaps = [
        abs(a[f"logp_{i}"] - b[f"logp_{i}"])
        for a, b in zip(one, other, strict=True)
        for i in range(3)
    ]
    same = sum(a["predicted"] == b["predicted"] for a, b in zip(one, other, strict=True))
    return (
        f"log-probabilities differ by {np.median(gaps):.1e} (median) to {max(gaps):.1e}; "
        f"{same} of {len(one)} answers are the same"
    )


# ------------------------------------------------------------------ a large model


def write(arguments, folder: Path) -> Path:
    """A model of a published shape with random weights, in NF4."""
    kind, shape, vocabulary = plans.SHAPES[arguments.shape]
    if arguments.layers:
        shape = shape | {"num_hidden_layers": arguments.layers}
    config = AutoConfig.for_model(
        kind, **shape, vocab_size=vocabulary, tie_word_embeddings=False, dtype="bfloat16"
    )
    tokenizer = load_tokenizer(arguments.model)
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, key, getattr(tokenizer, key))
    full, quantized = folder / "full", folder / arguments.shape
    with Lap("random weights, written"):
        with torch.device("cuda"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        model.save_pretrained(full)
        tokenizer.save_pretrained(full)
        del model
        torch.cuda.empty_cache()
    # On the GPU, for the sake of time; the workflow does it on a CPU.
    own = quantizing.load_model
    quantizing.load_model = lambda source, how, dtype, device: own(source, how, dtype, "cuda")
    with Lap("NF4 weights, quantised on the GPU and written"):
        quantizing.quantize(full, quantized, "bfloat16")
    quantizing.load_model = own
    torch.cuda.empty_cache()
    return quantized


class Lap:
    """Prints how long its body took."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self):
        self.begun = time.perf_counter()

    def __exit__(self, *error):
        print(f"{self.what}: {time.perf_counter() - self.begun:.1f} s", flush=True)


def score(arguments, items: pd.DataFrame, folder: Path) -> None:
    """Shared prefixes at several sizes of a pass, and plain batches at theirs."""
    items = bench.sample(items, arguments.blocks)
    tokenizer = load_tokenizer(folder)
    gc.collect()
    torch.cuda.empty_cache()
    with Lap("loaded"):
        model = load_model(folder, "nf4", "bfloat16", "cuda")
    print(f"{torch.cuda.memory_allocated() / 1e9:.3f} GB with the weights")
    active = active_parameters(skeleton(folder))
    modes = {"letter": Letter(tokenizer, prompts.ORDERS["given"]), "cloze": Cloze(tokenizer)}
    for name, mode in modes.items():
        runs = {f"plain, {n}": bench.WithoutTrees(model, n) for n in (4096, 16384)}
        runs |= {f"shared, {n}": engine.Engine(model, n) for n in (2048, 4096, 8192, 16384)}
        for running in runs.values():
            running.trials.share(1024)  # once a model, and not what is measured
        variants = {
            key: lambda mode=mode, running=running: bench.run_mode(mode, running, items)
            for key, running in runs.items()
        }
        bench.alternate(variants, 1)
        seconds = bench.alternate(variants, arguments.repetitions)
        for key, running in runs.items():
            torch.cuda.reset_peak_memory_stats()
            n_tokens = bench.tokens_of_passes(mode, running, items)
            peak = torch.cuda.max_memory_allocated() / 1e9
            wall = np.median(seconds[key][:, 0])
            print(
                f"{name}, {key} tokens a pass: {len(items) / wall:.1f} items/s, "
                f"{n_tokens / wall:.0f} tokens/s, {FORWARD * active * n_tokens / wall / 1e12:.0f} "
                f"TFLOP/s, {peak:.2f} GB at the peak",
                flush=True,
            )


def train(arguments, items: pd.DataFrame, folder: Path) -> None:
    """Some steps at several sizes of a pass, and each sequence by itself."""
    items = items[items["attribute"] == "Gender_identity"]
    items = samples.exclude_groups(items, "^(trans|nonTrans)")
    active = active_parameters(skeleton(folder))
    own = training.load_model

    def load(*args, **kwargs):
        gc.collect()  # the model before it
        torch.cuda.empty_cache()
        model = own(*args, **kwargs)
        torch.cuda.reset_peak_memory_stats()
        return model

    training.load_model = load
    for form, pairs_per_step, shared, twice in CASES:
        table = preference.build_pairs(items, form, max_items=5 * pairs_per_step // 2)
        job = {
            "model_folder": folder,
            "objective": {},
            "lora": {},
            "training": {"pairs_per_step": pairs_per_step},
            "quantization": "nf4",
            "dtype": "bfloat16",
        }
        machine = {"gpu_memory": None, "training_tokens_per_batch": TOKENS}
        planned = training_plan.choose(job | {"pairs": table}, machine, twice)
        with tempfile.TemporaryDirectory() as scratch:
            speed = Path(scratch) / "speed.tsv"
            training.train(
                table,
                **job,
                device="cuda",
                seed=0,
                checkpoints=Path(scratch) / "checkpoints",
                output=Path(scratch) / "adapter",
                tokens_per_batch=TOKENS,
                gradient_checkpointing=twice,
                shared_prefixes=shared,
                speed=speed,
            )
            steps = pd.read_csv(speed, sep="\t")[1:]
        peak = torch.cuda.max_memory_allocated() / 1e9
        rate = steps["tokens_per_second"].median()
        against = f" against {planned['total'] / 1e9:.2f} GB in the plan" if shared else ""
        work = TRAINING + FORWARD * twice
        print(
            f"{form}, {pairs_per_step} pairs a step, {'shared' if shared else 'each by itself'}"
            f"{', checkpointing' if twice else ''}: "
            f"{steps['pairs_per_second'].median():.2f} pairs/s, {rate:.0f} tokens/s, "
            f"{work * active * rate / 1e12:.0f} TFLOP/s; {peak:.2f} GB at the peak{against}",
            flush=True,
        )


PARTS = {"agree": agree, "score": score, "train": train}

if __name__ == "__main__":
    main()
