"""What a whole study will take: jobs, loads, tokens, GPU hours, and hours on several GPUs.

Tokens are counted. Seconds are arithmetic with rates that are assumed and said beside them, and
leave out attention, padding and the unpacking of NF4 weights.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from spillover import derived, other_attributes
from spillover import study as studies
from spillover.alignment import plan as training_plan
from spillover.alignment.memory import GB, disk_bytes
from spillover.alignment.settings import skeleton
from spillover.data import other_prompts, samples
from spillover.data import pairs as preference
from spillover.data.own_companions import set_of
from spillover.jobs import Job, jobs_of
from spillover.models.load import load_tokenizer
from spillover.models.size import active_parameters, served_bytes
from spillover.schedule import Task, critical_path, makespan
from spillover.scoring import tokens as scoring_tokens

# Floating-point operations for each parameter and token: a multiplication and an addition.
FORWARD = 2
# The policy forward, the gradients of its activations (frozen weights need none of their own),
# and the reference forward. Gradient checkpointing computes the activations once more.
TRAINING = FORWARD + FORWARD + FORWARD
# Assumed, as docs/scaling.md has them: bytes a second from a disk that many share, and seconds
# of a job's imports. Measured there, on two threads: parameters a second in quantising.
READ_RATE = 1e9
IMPORTS = 5
QUANTIZED_RATE = 135e6 / 2.6
# Blocks of an attribute whose tokens are counted; of more, a sample's tokens are scaled.
BLOCKS_COUNTED = 100
GPUS = (1, 2, 4, 8)
PRIORITY = {"answer_prompts": 1, "train_dpo": 1}  # as the rules have it
COLUMNS = ["rule", "model", "run", "weights", "tokens", "bytes_read", "seconds"]


class Tokens:
    """Tokens of scoring and of diagnosis, counted once for all runs that ask the same.

    Parameters
    ----------
    study : its ``models``, ``alignments`` and ``evaluation``, with defaults.
    folders : of each model, its configuration and tokenizer.
    items : item tables of all evaluated attributes, together.
    heldout : of each alignment its held-out items.
    sets : items of the companion sets.
    machine : ``tokens_per_batch`` or None.

    Attributes
    ----------
    counted, of : in how many distinct questions about items, and of how many.
    """

    def __init__(self, study, folders, items, heldout, sets, machine):
        self.study, self.folders, self.items, self.sets = study, folders, items, sets
        self.heldout, self.tokens_per_batch = heldout, machine["tokens_per_batch"]
        self.blocks = study["evaluation"]["blocks_per_attribute"]
        self.known: dict[tuple, int] = {}
        self.counted = self.of = 0

    def scoring(self, job: Job) -> int:
        """Tokens through the model in a scoring job, attribute after attribute."""
        asked = samples.asked_items(
            self.items, samples.heldout_for(job.run, self.heldout), self.blocks
        )
        n_tokens = sum(
            self._of_attribute(job.model, items)
            for _, items in asked.groupby("attribute", sort=False)
        )
        # At a strength the base and the aligned model compute each token.
        settings = self.study["alignments"].get(job.alignment, {})
        return n_tokens if derived.strength(settings) is None else 2 * n_tokens

    def companions(self, job: Job) -> int:
        """Tokens through the model in scoring a companion set."""
        key = ("companions", job.model, job.of)
        if key not in self.known:
            tokenizer = load_tokenizer(
                self.folders[job.model], studies.chat_template(self.study, job.model)
            )
            self.known[key] = scoring_tokens.count_companions(
                self.sets[job.of],
                tokenizer,
                set_of(job.of, self.study["companions"]["own"]).chat,
                self.tokens_per_batch,
            )
        settings = self.study["alignments"].get(job.alignment, {})
        return self.known[key] * (1 if derived.strength(settings) is None else 2)

    def diagnosis(self, job: Job) -> int:
        """Tokens through the model in a diagnosis, with the adapter and without."""
        key = ("diagnosis", job.model, job.alignment)
        if key not in self.known:
            alignment = self.study["alignments"][job.alignment]
            items = self.items[self.items["attribute"].isin(alignment["target"])]
            asked = samples.evaluated_items(items, [self.heldout[job.alignment]], self.blocks)
            some = samples.spread_blocks(asked, BLOCKS_COUNTED)
            n_tokens = training_plan.diagnosis_tokens(
                preference.build_pairs(some, studies.pairs_format(self.study, job.alignment)),
                self.folders[job.model],
                alignment["training"]["max_length"],
                studies.chat_template(self.study, job.model),
            )
            self.known[key] = self._scaled(2 * n_tokens, some, asked)
        return self.known[key]

    def answering(self, job: Job) -> int:
        """Tokens through the model in answering an alignment's prompts, at most."""
        alignment = self.study["alignments"][job.alignment]
        return scoring_tokens.count_answers(
            _examples(alignment, self.items)["replay"],
            load_tokenizer(self.folders[job.model], studies.chat_template(self.study, job.model)),
            alignment["objective"]["replay"]["max_new_tokens"],
            self.tokens_per_batch,
        )

    def _of_attribute(self, model: str, items: pd.DataFrame) -> int:
        key = (model, *items["item_id"])
        if key not in self.known:
            some = samples.spread_blocks(items, BLOCKS_COUNTED)
            tokenizer = load_tokenizer(
                self.folders[model], studies.chat_template(self.study, model)
            )
            n_tokens = scoring_tokens.count(
                some, tokenizer, self.study["evaluation"], self.tokens_per_batch
            )
            self.known[key] = self._scaled(n_tokens, some, items)
        return self.known[key]

    def _scaled(self, n_tokens: int, some: pd.DataFrame, items: pd.DataFrame) -> int:
        self.counted += len(some)
        self.of += len(items)
        return round(n_tokens * len(items) / len(some))


def plan(
    study: Mapping,
    folders: Mapping[str, str | Path],
    *,
    items: pd.DataFrame,
    pairs: Mapping[str, pd.DataFrame],
    heldout: Mapping[str, pd.DataFrame],
    sets: Mapping[str, pd.DataFrame],
    machine: Mapping,
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """What a study will take, training by training and job by job.

    Parameters
    ----------
    study, folders, items, heldout, sets : as in :class:`Tokens`; and of the study its ``seeds``.
    pairs : of each alignment that is trained here its preference pairs.
    machine : as in :func:`spillover.alignment.plan.choose`; ``gpu_tflops``, the rate that a GPU
        sustains (1e12 a second); ``tokens_per_batch``.

    Returns
    -------
    The table of :func:`spillover.alignment.plan.plan`; one row a job that loads a model
    (:data:`COLUMNS`; ``tokens`` go through the model once, with those of the reference beside
    them in training); and lines for people.
    """
    trainings = [
        {"model": model, "alignment": name, "model_folder": folder, "pairs": pairs[name]}
        | {key: study["alignments"][name][key] for key in ("objective", "lora", "training")}
        | {key: study["models"][model][key] for key in ("quantization", "dtype", "chat_template")}
        | _examples(study["alignments"][name], items)
        for model, folder in folders.items()
        for name in pairs
    ]
    training, text = training_plan.plan(trainings, machine)
    jobs = jobs_of(study)
    tokens = Tokens(study, folders, items, heldout, sets, machine)
    steps = training.set_index(["model", "alignment"])
    sizes = {model: _sizes(folder, study["models"][model]) for model, folder in folders.items()}
    rate = machine["gpu_tflops"] * 1e12
    counted = {
        "diagnose_alignment": tokens.diagnosis,
        "answer_prompts": tokens.answering,
        "score_items": tokens.scoring,
        "score_companions": tokens.companions,
    }
    rows = []
    for job in jobs:
        active, total, served, loaded = sizes[job.model]
        n_tokens, work = 0, FORWARD
        if job.rule == "train_dpo":
            planned = steps.loc[(job.model, job.alignment)]
            n_tokens = int(planned["tokens"])
            work = TRAINING + FORWARD * bool(planned["gradient_checkpointing"])
        elif job.rule != "quantize_model":
            n_tokens = counted[job.rule](job)
        seconds = work * active * n_tokens / rate
        if job.rule == "quantize_model":
            seconds = total / QUANTIZED_RATE
        read = loaded if job.on_gpu else served
        seconds += IMPORTS + read / READ_RATE
        rows.append([job.rule, job.model, job.run, job.weights, n_tokens, read, seconds])
    table = pd.DataFrame(rows, columns=COLUMNS)
    lines = _lines(jobs, table, tokens, study["evaluation"], machine["gpu_tflops"])
    return training, table, text + "".join(f"{line}\n" for line in lines)


def _examples(alignment: Mapping, items: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the terms of an objective are taken over; answers as long as they may be."""
    found = {}
    for term in other_attributes.TERMS:
        names = other_attributes.of_term(alignment, term)
        if names:
            found[term] = other_prompts.build(
                items[items["attribute"].isin(names)],
                alignment["split"],
                alignment["exclude_groups"],
                alignment["objective"][term]["max_items"],
            )
    if "replay" in found:
        length = alignment["objective"]["replay"]["max_new_tokens"]
        found["replay"] = found["replay"].assign(response="a" + " a" * (length - 1))
    if texts := other_attributes.texts(alignment):
        found["anchor"] = other_prompts.read_texts(texts)
    return found


def _sizes(folder: str | Path, settings: Mapping) -> tuple[int, int, int, int]:
    """Active and all parameters of a model; bytes as it is served, and as a job loads it."""
    model = skeleton(folder)
    served = served_bytes(folder, model)
    loaded = disk_bytes({"model_folder": folder, **settings}) or served
    return active_parameters(model), model.num_parameters(), served, loaded


def _lines(jobs, table: pd.DataFrame, tokens: Tokens, evaluation: Mapping, tflops) -> list[str]:
    if not jobs:
        return ["no job loads a model"]
    by_rule = table.groupby("rule", sort=False)
    counts = by_rule.size()
    n_tokens = by_rule["tokens"].sum()
    on_gpu = pd.Series([job.on_gpu for job in jobs])
    tasks = {
        job.name: Task(seconds, job.needs, PRIORITY.get(job.rule, 0), job.on_gpu)
        for job, seconds in zip(jobs, table["seconds"], strict=True)
    }
    starts = table.loc[on_gpu, "bytes_read"].sum() / READ_RATE + IMPORTS * on_gpu.sum()
    hours, of_starts = _times([table.loc[on_gpu, "seconds"].sum(), starts])
    *some, least = _times([*(makespan(tasks, n) for n in GPUS), critical_path(tasks)])
    unit = least.split()[1]
    how = "counted on all items"
    if tokens.counted < tokens.of:
        how = f"counted on {tokens.counted} of {tokens.of} items, and scaled"
    if evaluation["scoring"] == "generate":
        how += f"; scoring at most, if every answer has {evaluation['generate']['max_new_tokens']}"
    through = [f"{n_tokens['score_items']} in scoring"]
    if "score_companions" in n_tokens:
        through.append(f"{n_tokens['score_companions']} in companion sets")
    if "answer_prompts" in n_tokens:
        through.append(f"at most {n_tokens['answer_prompts']} in answers to train with")
    if "diagnose_alignment" in n_tokens:
        through.append(f"{n_tokens['diagnose_alignment']} in diagnosis")
    return [
        "jobs that load a model: " + ", ".join(f"{n} {rule}" for rule, n in counts.items()),
        f"  weights are loaded {len(jobs)} times, once a job: "
        f"{table['bytes_read'].sum() / GB:.3f} GB to read",
        f"tokens through the model: {', '.join(through)} ({how})",
        f"GPU time: {hours}, of it {of_starts} to start jobs; not measured, but assumed: a GPU "
        f"sustains {tflops:g} TFLOP/s (machine.gpu_tflops), a disk {READ_RATE / GB:g} GB/s, "
        f"imports take {IMPORTS} s",
        f"  on {', '.join(map(str, GPUS))} GPUs: "
        f"{', '.join(time.split()[0] for time in some)} {unit}; no more GPUs help below {least}",
    ]


def _times(seconds: list[float]) -> list[str]:
    """Times in one unit, that of the longest."""
    longest = max(seconds)
    name, unit = next(
        (name, unit) for name, unit in (("h", 3600), ("min", 60), ("s", 1)) if longest >= unit
    )
    return [f"{value / unit:.1f} {name}" for value in seconds]
