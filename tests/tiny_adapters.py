"""Random adapters of tiny models, large enough to change their answers."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model
from spillover.alignment.modules import all_linear
from spillover.models.load import load_model


def make(folder: Path, path: Path, config: PeftConfig | None = None, **changes) -> Path:
    """Write an adapter of a model folder and return its own.

    Parameters
    ----------
    config : of the adapter; None for LoRA on every linear layer, with ``changes``.
    """
    base = load_model(folder, "none", "float32", "cpu")
    if config is None:
        settings = {"r": 4, "target_modules": all_linear(base)[0], "init_lora_weights": False}
        config = LoraConfig(task_type="CAUSAL_LM", **(settings | changes))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        adapted = get_peft_model(base, config)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn_like(parameter)
    adapted.save_pretrained(path)
    return path
