"""Align a model on preference pairs: LoRA by DPO, through TRL, restartable to the bit."""

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import datasets
import pandas as pd
import torch
from transformers import PrinterCallback, TrainerCallback

from spillover.alignment import checkpoints as saved
from spillover.alignment import model_card
from spillover.alignment.encoding import encode, hash_rows
from spillover.alignment.modules import all_linear, without_noise
from spillover.alignment.settings import (
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
from spillover.alignment.shared_prefix_dpo import obstacle
from spillover.alignment.terms import terms_of
from spillover.alignment.trainer import (
    TOKENS_PER_BATCH,
    SharedTrainer,
    StockTrainer,
    arguments,
)
from spillover.core import signals
from spillover.core.errors import InputError
from spillover.core.files import disk_is_full, folder_sha256, replacing, to_disk, write_table
from spillover.core.logs import duration
from spillover.models.adapters import CONFIG
from spillover.models.adapters import WEIGHTS as SAFETENSORS
from spillover.models.load import (
    MODEL_FILES,
    device_name,
    load_model,
    load_tokenizer,
    resolve_device,
)

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
    anchor: pd.DataFrame | None = None,
    replay: pd.DataFrame | None = None,
    chat_template: Mapping | None = None,
    data: Mapping | None = None,
    results: str | None = None,
    speed: str | Path | None = None,
    on_the_way: Mapping[float, str | Path] | None = None,
    code: str = "",
) -> pd.DataFrame:
    """Train a LoRA adapter by DPO and write it to ``output`` in PEFT's format.

    Killed and called again, it goes on from its last checkpoint; on a CPU in float32 the
    adapter is then that of an undisturbed run, to the bit. The checkpoints stay: remove them
    with :func:`checkpoints.discard` once the adapter is in its place.

    Parameters
    ----------
    pairs : ``item_id, prompt, chosen, rejected``; the last three are lists of messages.
    model_folder : safetensors, tokenizer with a chat template.
    objective, lora, training : settings as in :mod:`settings`; what is left out has
        the defaults there.
    quantization, dtype, device : as in :func:`load.load_model`. The base computes in ``dtype`` as
        in evaluation; the adapter's weights are float32.
    checkpoints : folder for checkpoints. Those of another run in it are removed.
    output : folder to write to.
    tokens_per_batch : tokens of one forward pass. A step is divided into passes of at most so
        many, with the same loss and gradients; out of memory, the number halves itself.
    gradient_checkpointing : compute activations twice to hold fewer; by default on a GPU.
    shared_prefixes : run each distinct beginning of a step's sequences once, where the model
        allows it. False runs each sequence by itself.
    anchor, replay : what the terms of the objective are taken over, if it has them; as in
        :func:`spillover.alignment.encoding.encode_anchor` and ``encode_replay``.
    chat_template : arguments for the chat template.
    data : what the pairs were made of (``target``, ``pairs``), for the model card.
    results : where the adapter's evaluation will be, for its model card.
    speed : ``.tsv`` to write each step's speed to, with the last start's device and versions.
        It is no part of the log that is returned, which is the same whenever the run is made again.
    on_the_way : folder to write the adapter to as it is after a share of the steps (to the
        nearest step, at least one), by share. Nothing else depends on it.
    code : names the code of training: checkpoints of other code are not gone on from.

    Returns
    -------
    One row a step: ``step``, ``epoch``, ``loss``, ``reward_margin`` and ``reward_accuracy``
    (against the reference), ``reward_chosen``, ``reward_rejected``, ``logp_chosen`` and
    ``logp_rejected`` (mean log-probability of an answer, nats), ``grad_norm`` (before
    clipping), ``learning_rate``, ``pairs``, ``tokens`` (through the policy); and of an objective
    with such terms ``anchor_kl``, ``replay_loss`` (means over tokens, nats; weighted they are part
    of ``loss``).

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
    device = resolve_device(device)
    skeleton(model_folder, lora)
    tokenizer = load_tokenizer(model_folder, chat_template)
    rows = encode(pairs, tokenizer, training["max_length"])
    added = terms_of(objective, training, tokenizer, anchor, replay, seed)

    # What of the settings is the study's, and not the machine's.
    chosen = {key: value for key, value in training.items() if key not in NEUTRAL}
    checkpoints = Path(checkpoints)
    on_the_way = dict(on_the_way or {})
    start = saved.open_folder(
        checkpoints,
        {
            "pairs": hash_rows(rows),
            "base": folder_sha256(model_folder, MODEL_FILES),
            "quantization": quantization,
            "dtype": dtype,
            "seed": seed,
            "objective": objective,
            "lora": lora,
            "training": chosen,
            "versions": _versions(),
            "code": code,
            **{term.name: hash_rows(term.rows) for term in added},
            # What an earlier start did not keep cannot be had from its last checkpoint.
            **({"on_the_way": sorted(on_the_way)} if on_the_way else {}),
        },
    )
    model = load_model(model_folder, quantization=quantization, dtype=dtype, device=device.type)
    # TRL would turn off the adapter's dropout along with the base's.
    without_noise(model)
    if lora["target_modules"] == "all-linear":
        for why, layers in all_linear(model)[1].items():
            logger.info("no adapter on %s: %s", ", ".join(layers), why)
    kind = SharedTrainer
    reason = obstacle(model, rows) if shared_prefixes else "it is turned off"
    if reason is not None:
        kind = StockTrainer
        gradient_checkpointing = None  # planned for trees, which are smaller
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
        peft_config=lora_config(lora, model),
        tokens_per_batch=tokens_per_batch or TOKENS_PER_BATCH[device.type],
        terms=added,
        focal_gamma=objective["focal_gamma"],
    )
    trainer.check_log_probabilities(rows[0])
    trainer.remove_callback(PrinterCallback)
    request = signals.Request()
    # Before the checkpoint of the same step, which stands for all that went before.
    trainer.add_callback(_OnTheWay(on_the_way, checkpoints))
    trainer.add_callback(_Checkpoints(training, checkpoints, request))
    trainer.add_callback(_Progress(len(rows), training["epochs"]))
    if start is not None:
        logger.info("going on from %s", start)
    try:
        with request.awaited():
            trainer.train(resume_from_checkpoint=str(start) if start else None)
    except (OSError, RuntimeError) as error:
        if disk_is_full(error):
            saved.give_back(checkpoints)
            raise InputError(f"{checkpoints}: no space left on the disk") from error
        raise
    if trainer.state.global_step < trainer.state.max_steps:
        raise InputError(
            f"ended by {request.signal} at step {trainer.state.global_step} of "
            f"{trainer.state.max_steps}; the checkpoint is written, and the next start goes on "
            "from there"
        )
    source = _source(model_folder)
    card = {
        "source": source,
        "settings": {"objective": objective, "lora": lora, "training": chosen},
        "data": data,
        "chat_template": chat_template,
        "quantization": quantization,
        "dtype": dtype,
        "n_pairs": len(rows),
        "pairs_sha256": hash_rows(rows),
        "seed": seed,
        "results": results,
    }
    _name_base(trainer.model, source)
    trainer.model.save_pretrained(output, save_embedding_layers=False)
    model_card.write(output, **card)
    for share, folder in on_the_way.items():
        kept = saved.on_the_way(checkpoints, share)
        Path(folder).mkdir(parents=True, exist_ok=True)
        shutil.copy(kept / SAFETENSORS, folder)
        # Of the adapter's weights alone is it another one.
        shutil.copy(Path(output) / CONFIG, folder)
        model_card.write(folder, **card, share=share)
    if speed is not None:
        made_on = {"device": device_name(device), "versions": _told(_versions())}
        write_table(_table(trainer.state.log_history, SPEED).assign(**made_on), speed)
    return training_log(trainer.state.log_history, [term.name for term in added])


def training_log(history: Sequence[Mapping], added: Sequence[str] = ()) -> pd.DataFrame:
    """One row a step of what a trainer logged, under the names of :data:`COLUMNS`.

    Parameters
    ----------
    added : names of the objective's further terms, each a column.
    """
    return _table(history, COLUMNS | {name: name for name in added})


def _table(history: Sequence[Mapping], columns: Mapping[str, str]) -> pd.DataFrame:
    steps = pd.DataFrame([entry for entry in history if "loss" in entry])
    return pd.DataFrame({name: steps[theirs] for name, theirs in columns.items()})


def _name_base(model: torch.nn.Module, source: Mapping) -> None:
    """Have an adapter say what it was trained on, in the same bytes in every process."""
    config = model.peft_config["default"]
    # PEFT keeps names in a set, whose order differs from process to process.
    if isinstance(config.target_modules, set):
        config.target_modules = sorted(config.target_modules)
    if "repo" in source:
        # For PEFT to find the base anywhere, and not where it lies here.
        config.base_model_name_or_path, config.revision = source["repo"], source["commit"]


def _source(folder: str | Path) -> dict:
    """Where a model is from, as recorded when it was fetched."""
    record = Path(folder) / "source.json"
    return json.loads(record.read_text()) if record.is_file() else {}


def _versions() -> dict[str, str]:
    import peft
    import transformers
    import trl

    return {package.__name__: package.__version__ for package in (torch, transformers, peft, trl)}


def _told(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


class _OnTheWay(TrainerCallback):
    """Keeps the adapter as it is after shares of the steps."""

    def __init__(self, shares: Mapping[float, object], checkpoints: Path):
        self.shares, self.checkpoints = shares, checkpoints

    def on_step_end(self, args, state, control, model=None, **kwargs):
        for share in self.shares:
            if state.global_step == max(round(share * state.max_steps), 1):
                with replacing(saved.on_the_way(self.checkpoints, share)) as folder:
                    model.save_pretrained(folder, save_embedding_layers=False)
                    to_disk(folder)


class _Checkpoints(TrainerCallback):
    """A checkpoint after so many steps or minutes, or when the job is asked to end.

    It counts once all of it is written.
    """

    def __init__(self, training: Mapping, folder: Path, request: signals.Request):
        self.request = request
        self.steps = training["checkpoint_steps"]
        self.seconds = 60 * training["checkpoint_minutes"]
        self.folder = folder
        self.time = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        late = time.monotonic() - self.time >= self.seconds
        if late or state.global_step % self.steps == 0:
            control.should_save = True
        if self.request.signal is not None:
            control.should_save = control.should_training_stop = True

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
            duration((state.max_steps - state.global_step) / rate),
        )
