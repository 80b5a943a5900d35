"""Align a model on preference pairs: LoRA by DPO, through TRL, restartable to the bit."""

import hashlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils.data import Sampler
from transformers import PrinterCallback, TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.utils import disable_dropout_in_model

from spillover import checkpoints as saved
from spillover import model_card, models, prefix_tree
from spillover.alignment_settings import (
    LORA,
    NEUTRAL,
    OBJECTIVE,
    TRAINING,
    check_objective,
    check_training,
    complete,
    lora_config,
    skeleton,
)
from spillover.errors import InputError
from spillover.files import write_table
from spillover.shared_prefix_dpo import SharedPrefixDPOTrainer, obstacle, tree_of

logger = logging.getLogger(__name__)

# The training log's columns, and what TRL's trainer calls them.
COLUMNS = {
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "reward_margin": "rewards/margins",
    "reward_accuracy": "rewards/accuracies",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "logp_chosen": "logps/chosen",
    "logp_rejected": "logps/rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "pairs": "pairs",
    "tokens": "tokens",
}
# Those of its speed: forward and backward passes of policy and reference, no optimiser.
SPEED = {name: name for name in ("step", "seconds", "pairs_per_second", "tokens_per_second")}

# Losses that sort the pairs of a batch against each other: a step cannot be divided.
SORTED_LOSSES = {"aot", "aot_unpaired"}

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 8192}
SECONDS_BETWEEN_REPORTS = 10


def train(
    pairs: pd.DataFrame,
    model_folder: str | Path,
    *,
    objective: Mapping,
    lora: Mapping,
    training: Mapping,
    quantization: str,
    dtype: str,
    device: str,
    seed: int,
    checkpoints: str | Path,
    output: str | Path,
    tokens_per_batch: int | None = None,
    gradient_checkpointing: bool | None = None,
    shared_prefixes: bool = True,
    results: str | None = None,
    speed: str | Path | None = None,
) -> pd.DataFrame:
    """Train a LoRA adapter by DPO and write it to ``output`` in PEFT's format.

    Killed and called again, it goes on from its last checkpoint; on a CPU in float32 the
    adapter is then that of an undisturbed run, to the bit. The checkpoints stay: remove them
    with :func:`checkpoints.discard` once the adapter is in its place.

    Parameters
    ----------
    pairs : ``item_id, prompt, chosen, rejected``; the last three are lists of messages.
    model_folder : safetensors, tokenizer with a chat template.
    objective, lora, training : settings as in :mod:`alignment_settings`; what is left out has
        the defaults there.
    quantization, dtype, device : as in :func:`models.load`. The base computes in ``dtype`` as
        in evaluation; the adapter's weights are float32.
    checkpoints : folder for checkpoints. Those of another run in it are removed.
    output : folder to write to.
    tokens_per_batch : tokens of one forward pass. A step is divided into passes of at most so
        many, with the same loss and gradients; out of memory, the number halves itself.
    gradient_checkpointing : compute activations twice to hold fewer; by default on a GPU.
    shared_prefixes : run each distinct beginning of a step's sequences once, where the model
        allows it. False runs each sequence by itself.
    results : where the adapter's evaluation will be, for its model card.
    speed : ``.tsv`` to write each step's speed to. It is no part of the log that is returned,
        which is the same whenever the run is made again.

    Returns
    -------
    One row a step: ``step``, ``epoch``, ``loss``, ``reward_margin`` and ``reward_accuracy``
    (against the reference), ``reward_chosen``, ``reward_rejected``, ``logp_chosen`` and
    ``logp_rejected`` (mean log-probability of an answer, nats), ``grad_norm`` (before
    clipping), ``learning_rate``, ``pairs``, ``tokens`` (through the policy).

    Raises
    ------
    InputError
        If settings do not fit each other, the model or the pairs; before the model is loaded,
        but for memory that does not hold a single pair and a loss that is not finite.
    """
    objective = complete(objective, OBJECTIVE, "objective")
    lora = complete(lora, LORA, "lora")
    training = complete(training, TRAINING, "training")
    check_objective(objective)
    check_training(training, len(pairs), dtype)
    device = models.resolve_device(device)
    models.check_folder(model_folder)
    skeleton(model_folder, lora)
    tokenizer = models.load_tokenizer(model_folder)
    rows = encode(pairs, tokenizer, training["max_length"])

    checkpoints = Path(checkpoints)
    start = saved.open_folder(
        checkpoints,
        {
            "pairs": _hash_rows(rows),
            "base": _hash_folder(model_folder),
            "quantization": quantization,
            "dtype": dtype,
            "seed": seed,
            "objective": objective,
            "lora": lora,
            "training": {key: value for key, value in training.items() if key not in NEUTRAL},
            "versions": _versions(),
        },
    )
    model = models.load(model_folder, quantization=quantization, dtype=dtype, device=device.type)
    # TRL would turn off the adapter's dropout along with the base's; the base's alone must be
    # off, for the reference to be the model that is evaluated.
    disable_dropout_in_model(model)
    kind = SharedTrainer
    reason = obstacle(model, rows[:2]) if shared_prefixes else "it is turned off"
    if reason is not None:
        kind = StockTrainer
        logger.warning("each sequence runs by itself; no prefixes are shared: %s", reason)
    trainer = kind(
        model,
        args=arguments(
            objective,
            training,
            seed,
            checkpoints,
            device,
            device.type == "cuda" if gradient_checkpointing is None else gradient_checkpointing,
        ),
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(lora),
        tokens_per_batch=tokens_per_batch or TOKENS_PER_BATCH[device.type],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Checkpoints(training, checkpoints))
    trainer.add_callback(_Progress(len(rows), training["epochs"]))
    if start is not None:
        logger.info("going on from %s", start)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    source = _source(model_folder)
    if "repo" in source:
        # For PEFT to find the base anywhere, and not where it lies here.
        config = trainer.model.peft_config["default"]
        config.base_model_name_or_path, config.revision = source["repo"], source["commit"]
    trainer.model.save_pretrained(output, save_embedding_layers=False)
    model_card.write(
        output,
        source,
        settings={"objective": objective, "lora": lora, "training": training},
        quantization=quantization,
        dtype=dtype,
        n_pairs=len(rows),
        pairs_sha256=_hash_rows(rows),
        seed=seed,
        results=results,
    )
    if speed is not None:
        write_table(_table(trainer.state.log_history, SPEED), speed)
    return training_log(trainer.state.log_history)


def training_log(history: Sequence[Mapping]) -> pd.DataFrame:
    """One row a step of what a trainer logged, under the names of :data:`COLUMNS`."""
    return _table(history, COLUMNS)


def _table(history: Sequence[Mapping], columns: Mapping[str, str]) -> pd.DataFrame:
    steps = pd.DataFrame([entry for entry in history if "loss" in entry])
    return pd.DataFrame({name: steps[theirs] for name, theirs in columns.items()})


# ------------------------------------------------------------------ data


def encode(pairs: pd.DataFrame, tokenizer, max_length: int) -> list[dict]:
    """Token ids of pairs, as evaluation renders them.

    Returns
    -------
    For each pair ``item_id, prompt_ids, chosen_ids, rejected_ids``.

    Raises
    ------
    InputError
        If a pair is longer than ``max_length``, which TRL would cut or leave out, or a prompt
        does not go on unchanged in front of its answer.
    """
    rows = []
    for pair in pairs.to_dict("records"):
        prompt = models.encode_chat(tokenizer, list(pair["prompt"]))
        row = {"item_id": pair["item_id"], "prompt_ids": prompt}
        for side in ("chosen", "rejected"):
            whole = models.encode_chat(tokenizer, list(pair["prompt"]), pair[side][0]["content"])
            if len(whole) > max_length:
                raise InputError(
                    f"training.max_length: {pair['item_id']} with its answer takes {len(whole)} "
                    f"tokens, more than {max_length}; nothing is cut or left out"
                )
            if whole[: len(prompt)] != prompt:
                raise InputError(
                    f"{tokenizer.name_or_path}: its chat template renders the prompt of "
                    f"{pair['item_id']} otherwise once an answer follows"
                )
            row[f"{side}_ids"] = whole[len(prompt) :]
        rows.append(row)
    return rows


def _source(folder: str | Path) -> dict:
    """Where a model is from, as recorded when it was fetched."""
    record = Path(folder) / "source.json"
    return json.loads(record.read_text()) if record.is_file() else {}


def _hash_rows(rows: Sequence[Mapping]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def _hash_folder(folder: str | Path) -> str:
    """Hash of the files that a model is made of."""
    total = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.suffix in (".json", ".safetensors", ".model", ".jinja"):
            with file.open("rb") as content:
                total.update(file.name.encode())
                total.update(hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()


def _versions() -> dict[str, str]:
    import peft
    import transformers
    import trl

    return {package.__name__: package.__version__ for package in (torch, transformers, peft, trl)}


class ItemSampler(Sampler):
    """Indices of pairs in an order that keeps the pairs of an item together.

    The order depends on the seed and the epoch alone: a run that goes on in the middle of an
    epoch sees the same pairs as one that was not disturbed.
    """

    def __init__(self, item_ids: Sequence[str], seed: int):
        self.pairs_of_item = list(
            pd.Series(range(len(item_ids))).groupby(list(item_ids)).indices.values()
        )
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self.pairs_of_item))

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for item in rng.permutation(len(self.pairs_of_item)):
            yield from self.pairs_of_item[item].tolist()


# ------------------------------------------------------------------ the trainer


def arguments(
    objective: Mapping,
    training: Mapping,
    seed: int,
    folder: Path,
    device: torch.device,
    gradient_checkpointing: bool,
) -> DPOConfig:
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type=list(objective["loss"]),
        loss_weights=objective["loss_weights"],
        beta=objective["beta"],
        label_smoothing=objective["label_smoothing"],
        f_divergence_type=objective["f_divergence"],
        f_alpha_divergence_coef=objective["f_divergence_alpha"],
        discopop_tau=objective["discopop_tau"],
        num_train_epochs=training["epochs"],
        learning_rate=training["learning_rate"],
        per_device_train_batch_size=training["pairs_per_step"],
        max_length=training["max_length"],
        warmup_steps=training["warmup_ratio"],
        lr_scheduler_type=training["lr_scheduler"],
        optim=training["optimizer"],
        weight_decay=training["weight_decay"],
        max_grad_norm=training["max_grad_norm"],
        report_to=list(training["report_to"]) or "none",
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
        use_cpu=device.type == "cpu",
        # The base computes in its own dtype, as in evaluation; no autocast.
        bf16=False,
        disable_dropout=False,
        # A step is divided by the trainer below, not by gradient accumulation, whose parts
        # have a fixed number of pairs and the same weight whatever they hold.
        gradient_accumulation_steps=1,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        # _Checkpoints says when.
        save_strategy="no",
        disable_tqdm=True,
    )
    # One process trains on one GPU, however many are in sight.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class _Steps:
    """For a DPOTrainer: steps of whole items that are divided by tokens.

    A batch of the data loader is the pairs of a step. What goes through the model at once is
    as many of them as fit into ``tokens_per_batch``; their losses are weighted by their number
    of pairs, so that loss and gradients of the step are the same however it is divided.
    """

    def __init__(self, *args, tokens_per_batch: int, **kwargs):
        super().__init__(*args, **kwargs)
        self.tokens_per_batch = tokens_per_batch
        self.collate = self.data_collator
        self.data_collator = lambda pairs: {"pairs": pairs}
        # TRL makes the adapter of a quantised model bfloat16, in which an update smaller than
        # a 256th of a weight is lost; a restart would bring it back as float32 (PEFT).
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def _prepare_dataset(self, dataset, *args):
        """The pairs are encoded already, as evaluation encodes them."""
        return dataset

    def _send_telemetry(self) -> None:
        """Nothing but the fetch rules touches the network."""

    def create_model_card(self, *args, **kwargs) -> None:
        """Checkpoints need no card."""

    def _get_train_sampler(self, train_dataset=None) -> ItemSampler:
        return ItemSampler(self.train_dataset["item_id"], self.args.seed)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        pairs = inputs["pairs"]
        while True:
            parts = self.divide(pairs, self.loss_types, self.tokens_per_batch)
            begun = time.perf_counter()
            try:
                loss = self._accumulate(model, parts)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                largest = max(sum(map(self._size, self._units(part))) for part in parts)
                smaller = min(self.tokens_per_batch, largest) // 2
                single = max(map(len, map(self._units, parts))) == 1
                if single or not _divisible(pairs, self.loss_types):
                    raise InputError(
                        f"out of memory with {largest} tokens in one forward pass, the fewest "
                        "that this objective and these pairs allow; use a GPU with more memory, "
                        "gradient checkpointing, quantization: nf4 or a smaller model"
                    ) from None
            self._metrics["train"].clear()
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
            self.tokens_per_batch = smaller
            logger.warning("out of memory; %d tokens at once from here on", self.tokens_per_batch)
        self._check_finite(loss, pairs)  # which waits for a GPU to be done
        seconds = time.perf_counter() - begun
        # Trackers see them too, and checkpoints keep them for a run that goes on.
        metrics = self._metrics["train"]
        metrics["seconds"] = [seconds]
        for what in ("pairs", "tokens"):
            metrics[f"{what}_per_second"] = [metrics[what][0] / seconds]
        return loss

    @classmethod
    def divide(
        cls, pairs: list[dict], losses: Sequence[str], tokens_per_batch: int
    ) -> list[list[dict]]:
        """Parts of a step that go through the model at once.

        Each has at most ``tokens_per_batch`` tokens, or is of a single item (pair, where
        nothing is shared); if the losses do not allow a step to be divided, it stays whole.
        """
        if not _divisible(pairs, losses):
            return [pairs]
        units = cls._units(pairs)
        return [
            [pair for i in part for pair in units[i]]
            for part in prefix_tree.batches([cls._size(unit) for unit in units], tokens_per_batch)
        ]

    def _accumulate(self, model, parts: list[list[dict]]) -> torch.Tensor:
        """Loss of a step; its gradients are added up part by part."""
        n_pairs = sum(map(len, parts))
        total, n_tokens = 0.0, 0
        for part in parts:
            inputs = self.collate(part)
            n_tokens += int(inputs["attention_mask"].sum())
            self.weight = len(part) / n_pairs
            total += super().training_step(model, inputs)
        metrics = self._metrics["train"]
        weights = [len(part) / n_pairs for part in parts]
        for name, values in metrics.items():
            if len(values) == len(parts):
                metrics[name] = [math.fsum(np.multiply(weights, values))]
        metrics["pairs"] = [n_pairs]
        metrics["tokens"] = [n_tokens]
        return total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self.weight * super().compute_loss(model, inputs, return_outputs)

    def _check_finite(self, loss: torch.Tensor, pairs: list[dict]) -> None:
        """Stop before a gradient that is not finite reaches the weights."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if math.isfinite(loss) and all(g.isfinite().all() for g in gradients):
            return
        items = ", ".join(dict.fromkeys(pair["item_id"] for pair in pairs))
        last = saved.last(Path(self.args.output_dir))
        raise InputError(
            f"training: loss {float(loss)} or its gradient is not finite at step "
            f"{self.state.global_step + 1} (pairs of {items}); the last good checkpoint is "
            f"{last or 'none'}; lower training.learning_rate or objective.beta"
        )


class StockTrainer(_Steps, DPOTrainer):
    """Each sequence by itself."""

    @staticmethod
    def _units(pairs: list[dict]) -> list[list[dict]]:
        return [[pair] for pair in pairs]

    @staticmethod
    def _size(unit: list[dict]) -> int:
        return sum(map(_n_tokens, unit))


class SharedTrainer(_Steps, SharedPrefixDPOTrainer):
    """The pairs of an item, which share most of their tokens, in one tree."""

    @staticmethod
    def _units(pairs: list[dict]) -> list[list[dict]]:
        items = {}
        for pair in pairs:
            items.setdefault(pair["item_id"], []).append(pair)
        return list(items.values())

    @staticmethod
    def _size(unit: list[dict]) -> int:
        return len(tree_of(unit))


def _divisible(pairs: Sequence[Mapping], losses: Sequence[str]) -> bool:
    """Whether the losses of parts, weighted by their pairs, add up to that of the step."""
    if SORTED_LOSSES & set(losses):
        return False
    # A mean over tokens: only if all chosen answers are as long.
    return "sft" not in losses or len({len(pair["chosen_ids"]) for pair in pairs}) == 1


def _n_tokens(pair: Mapping) -> int:
    """Tokens of a pair's two sequences."""
    answers = max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
    return 2 * (len(pair["prompt_ids"]) + answers)


class _Checkpoints(TrainerCallback):
    """A checkpoint after so many steps or minutes; it counts once all of it is written."""

    def __init__(self, training: Mapping, folder: Path):
        self.steps = training["checkpoint_steps"]
        self.seconds = 60 * training["checkpoint_minutes"]
        self.folder = folder
        self.time = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        late = time.monotonic() - self.time >= self.seconds
        if late or state.global_step % self.steps == 0:
            control.should_save = True

    def on_save(self, args, state, control, **kwargs):
        saved.mark_whole(self.folder / f"checkpoint-{state.global_step}")
        saved.keep_last(self.folder)
        self.time = time.monotonic()


class _Progress(TrainerCallback):
    """Step, loss, speed and time left, every few seconds."""

    def __init__(self, n_pairs: int, epochs: float):
        self.n_pairs = n_pairs * epochs
        self.time = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        logger.info("training: %d pairs in %d steps", self.n_pairs, state.max_steps)
        self.start, self.first = time.monotonic(), state.global_step

    def on_log(self, args, state, control, logs, **kwargs):
        now = time.monotonic()
        if "loss" not in logs or (
            now - self.time < SECONDS_BETWEEN_REPORTS and state.global_step < state.max_steps
        ):
            return
        self.time = now
        rate = (state.global_step - self.first) / (now - self.start)
        logger.info(
            "step %d of %d: loss %.4f, %.2f pairs/s, %s left",
            state.global_step,
            state.max_steps,
            logs["loss"],
            rate * args.train_batch_size,
            pd.Timedelta(seconds=round((state.max_steps - state.global_step) / rate)),
        )
