"""Settings of an alignment: defaults, what is refused, and their form for TRL and PEFT.

Keys, types and defaults are those of :data:`OBJECTIVE`, :data:`LORA` and :data:`TRAINING`.
The configuration is checked with them whenever Snakemake starts, so torch and its kin are
imported only where they are needed.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spillover.core.errors import InputError

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

OBJECTIVE = {
    # TRL's loss types, added with loss_weights (all 1 if null).
    "loss": ["sigmoid"],
    "loss_weights": None,
    # Strength of the pull towards the reference; IPO's tau.
    "beta": 0.1,
    # robust: probability that a preference is wrong, in [0, 0.5). exo_pair: its epsilon, > 0.
    "label_smoothing": 0.0,
    # Divergence from the reference, and the order of the alpha divergence.
    "f_divergence": "reverse_kl",
    "f_divergence_alpha": 0.5,
    # Temperature of discopop.
    "discopop_tau": 0.05,
    # Exponent of the focal weight of phi-DPO (alignment/focal.py); 0 is none.
    "focal_gamma": 0.0,
    # KL divergence from the base on prompts of other attributes, or on texts of the user's:
    # attributes or texts, weight, max_items (TERMS).
    "anchor": None,
    # The base's own answers to prompts of other attributes: attributes, weight, max_items,
    # max_new_tokens (TERMS).
    "replay": None,
}
# Of the two that add a term, what they leave out; a weight must be given.
TERMS = {
    "anchor": {"attributes": None, "texts": None, "weight": None, "max_items": 128},
    "replay": {"attributes": None, "weight": None, "max_items": 128, "max_new_tokens": 32},
}
LORA = {
    "r": 16,
    "alpha": 32,
    # Probability with which an input of the adapter is dropped in training.
    "dropout": 0.05,
    # all-linear (every linear layer but the output head and what alignment/modules.py leaves
    # out), or names of modules.
    "target_modules": "all-linear",
}
TRAINING = {
    "epochs": 1,
    "learning_rate": 5.0e-5,
    "pairs_per_step": 16,
    # Longest prompt with its answer, in tokens; a longer pair is an error.
    "max_length": 1024,
    # Share of the steps in which the learning rate rises from 0.
    "warmup_ratio": 0.0,
    "lr_scheduler": "linear",
    "optimizer": "adamw_torch",
    "weight_decay": 0.0,
    # Largest norm of the gradient; it is scaled down to it.
    "max_grad_norm": 1.0,
    # A checkpoint after so many steps or minutes, whichever comes first.
    "checkpoint_steps": 50,
    "checkpoint_minutes": 10,
    # Back-ends that the log also goes to.
    "report_to": [],
}

# Keys that change no result: a checkpoint made under others is still good.
NEUTRAL = ("checkpoint_steps", "checkpoint_minutes", "report_to")

LOSSES = (
    "sigmoid",
    "hinge",
    "ipo",
    "exo_pair",
    "nca_pair",
    "robust",
    "bco_pair",
    "sppo_hard",
    "aot",
    "aot_unpaired",
    "apo_zero",
    "apo_down",
    "discopop",
    "sft",
    "sigmoid_norm",
)
# Losses of the difference between chosen and rejected, in which an f-divergence's normaliser
# cancels; TRL refuses the others with any but the reverse KL.
DIFFERENCE_LOSSES = {
    "sigmoid",
    "sigmoid_norm",
    "hinge",
    "ipo",
    "exo_pair",
    "robust",
    "discopop",
    "sft",
}
# Losses that a focal weight goes with (alignment/focal.py).
FOCAL_LOSSES = {"sigmoid", "sigmoid_norm"}
DIVERGENCES = ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence")
SCHEDULERS = ("linear", "cosine", "constant", "constant_with_warmup")
OPTIMIZERS = (
    "adamw_torch",
    "adamw_torch_fused",
    "adamw_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "adafactor",
    "sgd",
)
TRACKERS = {"tensorboard": "tensorboard", "wandb": "wandb"}


def complete(given: Mapping, defaults: Mapping, section: str) -> dict:
    """``given`` with what it leaves out taken from ``defaults``.

    Raises
    ------
    InputError
        If a key is not known.
    """
    unknown = set(given) - set(defaults)
    if unknown:
        raise InputError(
            f"{section}.{min(unknown)}: not a setting; expected one of {', '.join(defaults)}"
        )
    return {**defaults, **given}


def check_objective(objective: Mapping) -> None:
    """Refuse what TRL's DPOTrainer would refuse once the model is loaded, and what it has not.

    Raises
    ------
    InputError
        If a loss is unknown, the weights do not match the losses, a divergence does not go
        with a loss, or label smoothing is outside what a loss allows; if a focal weight does not
        go with loss or divergence, or an anchor or replay has no weight or nothing to take.
    """
    losses, weights = objective["loss"], objective["loss_weights"]
    for loss in losses:
        if loss not in LOSSES:
            raise InputError(f"objective.loss: expected of {', '.join(LOSSES)}, found {loss}")
    if weights is not None and len(weights) != len(losses):
        raise InputError(
            f"objective.loss_weights: expected {len(losses)}, one for each loss, "
            f"found {len(weights)}"
        )
    if objective["f_divergence"] not in DIVERGENCES:
        raise InputError(
            f"objective.f_divergence: expected one of {', '.join(DIVERGENCES)}, "
            f"found {objective['f_divergence']}"
        )
    unfit = sorted(set(losses) - DIFFERENCE_LOSSES)
    if objective["f_divergence"] != "reverse_kl" and unfit:
        raise InputError(
            f"objective.f_divergence: {objective['f_divergence']} goes with "
            f"{', '.join(sorted(DIFFERENCE_LOSSES))} only, found {', '.join(unfit)}"
        )
    smoothing = objective["label_smoothing"]
    if "exo_pair" in losses and not 0 < smoothing < 1:
        raise InputError(
            f"objective.label_smoothing: exo_pair needs one in (0, 1), e.g. 0.001, "
            f"found {smoothing}"
        )
    if "robust" in losses and not 0 <= smoothing < 0.5:
        raise InputError(
            f"objective.label_smoothing: robust needs one in [0, 0.5), found {smoothing}"
        )
    if objective["focal_gamma"] != 0:
        _check_focal(objective)
    for name, defaults in TERMS.items():
        if objective[name] is not None:
            key = f"objective.{name}"
            _check_term(key, complete(objective[name], defaults, key))


def _check_focal(objective: Mapping) -> None:
    """The weight is put on a loss -logsigmoid(x), and where TRL calls it for nothing else."""
    gamma, losses = objective["focal_gamma"], objective["loss"]
    if gamma < 0:
        raise InputError(f"objective.focal_gamma: expected 0 or more, found {gamma}")
    unfit = sorted(set(losses) - FOCAL_LOSSES)
    if unfit:
        raise InputError(
            f"objective.focal_gamma: goes with {', '.join(sorted(FOCAL_LOSSES))} only, found "
            f"{', '.join(unfit)}"
        )
    if objective["f_divergence"] == "js_divergence":
        raise InputError(
            "objective.focal_gamma: goes with any f_divergence but js_divergence, found that one"
        )


def _check_term(key: str, term: Mapping) -> None:
    given = [name for name in ("attributes", "texts") if term.get(name)]
    if len(given) != 1:
        expected = "attributes or texts" if "texts" in term else "attributes"
        found = " and ".join(given) or "none"
        raise InputError(f"{key}: expected {expected}, found {found}")
    if term["weight"] is None or not term["weight"] > 0:
        raise InputError(f"{key}.weight: expected a number above 0, found {term['weight']}")


def check_training(training: Mapping, n_pairs: int, dtype: str) -> None:
    """Refuse settings under which no step could be made.

    Raises
    ------
    InputError
        If there are fewer pairs than a step takes, a name is unknown, or a tracker is not
        installed.
    """
    if n_pairs < training["pairs_per_step"]:
        raise InputError(
            f"training.pairs_per_step: a step takes {training['pairs_per_step']} pairs, "
            f"and there are {n_pairs}"
        )
    for key, known in [("lr_scheduler", SCHEDULERS), ("optimizer", OPTIMIZERS)]:
        if training[key] not in known:
            raise InputError(
                f"training.{key}: expected one of {', '.join(known)}, found {training[key]}"
            )
    for tracker in training["report_to"]:
        if tracker not in TRACKERS:
            raise InputError(
                f"training.report_to: expected of {', '.join(TRACKERS)}, found {tracker}"
            )
        if importlib.util.find_spec(TRACKERS[tracker]) is None:
            raise InputError(
                f"training.report_to: {tracker} is not installed; "
                f"python -m pip install {TRACKERS[tracker]}"
            )
    if dtype == "float16":
        raise InputError(
            "dtype: training in float16 would lose small gradients; use bfloat16 or float32"
        )


def lora_config(lora: Mapping, model: "PreTrainedModel") -> "LoraConfig":
    """PEFT's form of the settings of a model's adapter."""
    from peft import LoraConfig

    from spillover.alignment.modules import all_linear

    target_modules = lora["target_modules"]
    if target_modules == "all-linear":
        names, left_out = all_linear(model)
        # Where nothing is left out, PEFT's own word for it.
        target_modules = names if left_out else target_modules
    return LoraConfig(
        r=lora["r"],
        lora_alpha=lora["alpha"],
        lora_dropout=lora["dropout"],
        target_modules=target_modules,
        task_type="CAUSAL_LM",
    )


def skeleton(
    model_folder: str | Path,
    lora: Mapping | None = None,
    dtype: str = "float32",
    attention: str = "eager",
) -> "torch.nn.Module":
    """The model of a folder without its weights (meta device), with the adapter attached.

    Raises
    ------
    InputError
        If the adapter's target modules match nothing, are none that PEFT can take, take in a
        router or the output head (TRL computes log-probabilities around it, so that its adapter
        would never be trained), or are smaller than the rank.
    """
    import torch

    from spillover.models.architecture import read_config, without_weights

    config = read_config(model_folder)
    # Shapes are those of the model as served.
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = without_weights(config, dtype, attention)
    if lora is not None:
        with torch.device("meta"):
            model = _with_adapter(model, lora, model_folder)
    return model


def _with_adapter(model: "PreTrainedModel", lora: Mapping, folder: str | Path) -> "PeftModel":
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer

    from spillover.models.architecture import is_router

    names = lora["target_modules"]
    try:
        model = get_peft_model(model, lora_config(lora, model))
    except ValueError as error:
        message = str(error).strip().splitlines()[0]
        if "lora_dropout" in message:
            raise InputError(
                f"lora.dropout: {names} takes in experts, on which PEFT has no dropout; set "
                "lora.dropout: 0 or leave them out of lora.target_modules"
            ) from error
        if "incompatible" in message or "fused" in message:
            raise InputError(f"lora.target_modules: {message}") from error
        if "target" not in message.lower():
            raise
        raise InputError(
            f"lora.target_modules: {names} matches no linear layer of "
            f"{folder}; expected all-linear or names such as q_proj"
        ) from error
    if isinstance(model.get_output_embeddings(), LoraLayer):
        raise InputError(
            "lora.target_modules: the output head cannot have an adapter: TRL's trainer "
            "would never train it"
        )
    for name, layer in model.named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        name = name.removeprefix("base_model.model.")
        if is_router(layer.get_base_layer()):
            raise InputError(
                f"lora.target_modules: the router {name} cannot have an adapter; name others"
            )
        if lora["r"] > min(layer.in_features, layer.out_features):
            raise InputError(
                f"lora.r: rank {lora['r']} is larger than the layer {name} "
                f"({layer.in_features} x {layer.out_features})"
            )
    return model
