"""Align a model on preference pairs: LoRA by DPO, through TRL, restartable to the bit."""

import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils.data import Sampler
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference
from trl.trainer.utils import disable_dropout_in_model

from spillover import checkpoints as saved
from spillover import models, prefix_tree
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
    rows = _rows(pairs)
    _check_lengths(rows, tokenizer, training["max_length"])

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
    trainer = _Trainer(
        model,
        args=_arguments(
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
    trainer.add_callback(_Checkpoints(training, checkpoints))
    trainer.add_callback(_Progress(len(rows), training["epochs"]))
    if start is not None:
        logger.info("going on from %s", start)
    trainer.train(resume_from_checkpoint=str(start) if start else None)
    output = Path(output)
    trainer.model.save_pretrained(output, save_embedding_layers=False)
    return training_log(trainer.state.log_history)


def training_log(history: Sequence[Mapping]) -> pd.DataFrame:
    """One row a step of what a trainer logged, under the names of :data:`COLUMNS`."""
    steps = pd.DataFrame([entry for entry in history if "loss" in entry])
    return pd.DataFrame({name: steps[theirs] for name, theirs in COLUMNS.items()})


# ------------------------------------------------------------------ data


def _rows(pairs: pd.DataFrame) -> list[dict]:
    """Rows for TRL: plain lists of messages (Parquet gives arrays), the template's settings."""
    return [
        {
            "item_id": pair["item_id"],
            **{
                part: [dict(message) for message in pair[part]]
                for part in ("prompt", "chosen", "rejected")
            },
            "chat_template_kwargs": models.TEMPLATE_SETTINGS,
        }
        for pair in pairs.to_dict("records")
    ]


def _check_lengths(rows: Sequence[Mapping], tokenizer, max_length: int) -> None:
    """Refuse a pair that TRL would drop or cut."""
    for row in rows:
        for part in ("chosen", "rejected"):
            length = len(models.encode_chat(tokenizer, row["prompt"], row[part][0]["content"]))
            if length > max_length:
                raise InputError(
                    f"training.max_length: {row['item_id']} with its answer takes {length} "
                    f"tokens, more than {max_length}; nothing is cut or left out"
                )


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


def _arguments(
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


class _Trainer(DPOTrainer):
    """TRL's trainer, with steps of whole items that are divided by tokens.

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

    def _send_telemetry(self) -> None:
        """Nothing but the fetch rules touches the network."""

    def create_model_card(self, *args, **kwargs) -> None:
        """Checkpoints need no card."""

    def _get_train_sampler(self, train_dataset=None) -> ItemSampler:
        return ItemSampler(self.train_dataset["item_id"], self.args.seed)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        pairs = inputs["pairs"]
        while True:
            parts = self._divide(pairs)
            try:
                loss = self._accumulate(model, parts)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if len(parts) == len(pairs) or SORTED_LOSSES & set(self.loss_types):
                    raise InputError(
                        "the memory does not hold a single pass of training at "
                        f"{max(map(_n_tokens, pairs))} tokens a pair; use a larger GPU, "
                        "gradient checkpointing, quantization: nf4 or a smaller model"
                    ) from None
            self._metrics["train"].clear()
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
            self.tokens_per_batch = min(self.tokens_per_batch, sum(map(_n_tokens, pairs))) // 2
            logger.warning("out of memory; %d tokens at once from here on", self.tokens_per_batch)
        self._check_finite(loss, pairs)
        return loss

    def _divide(self, pairs: list[dict]) -> list[list[dict]]:
        """Parts of a step that go through the model at once."""
        lengths = {len(pair[part]) for pair in pairs for part in ("chosen_ids", "rejected_ids")}
        # sft's loss is a mean over tokens: parts weighted by pairs add up to it only if all
        # answers are as long.
        whole = SORTED_LOSSES & set(self.loss_types) or (
            "sft" in self.loss_types and len(lengths) > 1
        )
        if whole:
            return [pairs]
        sizes = [_n_tokens(pair) for pair in pairs]
        return [
            [pairs[i] for i in part] for part in prefix_tree.batches(sizes, self.tokens_per_batch)
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
