"""Plain LoRA adapters as folders in PEFT's format: read, refused if they are more, written.

A LoRA adapter changes a matrix W of its base by dW = s B A, with A of shape (r, in), B of shape
(out, r) and s = lora_alpha / r, or lora_alpha / sqrt(r) with ``use_rslora``.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from spillover.core.errors import InputError
from spillover.models.adapters import CONFIG, WEIGHTS, read_adapter_config
from spillover.models.weights import read_header

# PEFT's names of an adapter's tensors. An embedding's are parameters by themselves.
TENSOR = re.compile(r"(.+)\.lora_(?:embedding_)?([AB])(?:\.weight)?")

# Which modules have an adapter, beside ``target_modules``, of which PEFT makes the union.
PLACES = ("exclude_modules", "layers_to_transform", "layers_pattern")
# What a configuration may say of an adapter whose update is s B A and nothing else. All that is
# not here, DoRA and other variants among it, must be as PEFT has it by default.
PLAIN = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "inference_mode"),
    *("base_model_name_or_path", "revision", "target_modules", *PLACES, "fan_in_fan_out"),
    *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "lora_dropout"),
    *("init_lora_weights", "eva_config", "runtime_config"),
}
# Ways to start that leave the base as it is; after the others, dW is to a base that was changed.
STARTS = (True, False, "gaussian", "eva", "orthogonal", "mica")


class PlainLora(NamedTuple):
    """An adapter: PEFT's configuration, tensors by PEFT's names."""

    file: Path
    config: LoraConfig
    tensors: dict[str, torch.Tensor]

    def pairs(self) -> dict[str, dict[str, str]]:
        """As :func:`pairs_of`."""
        return pairs_of(self.tensors)

    def rank(self, module: str) -> int:
        """r of a module."""
        return _of_pattern(self.config.rank_pattern, module, self.config.r)

    def scaling(self, module: str) -> float:
        """s of a module."""
        alpha = _of_pattern(self.config.alpha_pattern, module, self.config.lora_alpha)
        return alpha / divisor(self.config, self.rank(module))


def read(folder: str | Path) -> PlainLora:
    """An adapter of a folder in PEFT's format, on the CPU.

    How it was started is left out of its configuration: some ways need the base's weights, and it
    matters no more.

    Raises
    ------
    InputError
        If it is more than A and B of matrices of a base that stays as it is, or its file does not
        hold what its configuration says.
    """
    folder = Path(folder)
    file = folder / WEIGHTS
    config = read_adapter_config(folder)
    _check_plain(folder, config)
    header = read_header(file)
    others = sorted(name for name in header if not TENSOR.fullmatch(name))
    if others:
        raise InputError(
            f"{file}: expected a LoRA's A and B and no other tensors, found {others[0]} (an "
            "embedding or another module that was saved whole)"
        )
    config.init_lora_weights, config.eva_config = True, None
    source = PlainLora(file, config, load_file(file))
    for module, names in source.pairs().items():
        shapes = [header[names[part]][1] for part in "AB" if part in names]
        rank = source.rank(module)
        if len(shapes) < 2 or any(len(s) != 2 for s in shapes):
            raise InputError(f"{file}: expected A and B, two matrices, on {module}, found {shapes}")
        if (shapes[0][0], shapes[1][1]) != (rank, rank):
            raise InputError(
                f"{file}: expected rank {rank} on {module}, as {CONFIG} says, found {shapes}"
            )
    return source


def _check_plain(folder: Path, config: PeftConfig) -> None:
    """Refuse an adapter that is anything but s B A added to matrices of its base."""
    file = folder / CONFIG
    if type(config) is not LoraConfig:
        kind = getattr(config.peft_type, "value", config.peft_type)
        raise InputError(f"{file}: expected peft_type: LORA, found {kind}")
    usual = LoraConfig()
    for field in dataclasses.fields(config):
        found = getattr(config, field.name)
        # Older versions of PEFT wrote an empty list or dict for nothing.
        if field.name not in PLAIN and (found or None) != (getattr(usual, field.name) or None):
            shown = found if isinstance(found, str | int | float | list | dict) else "settings"
            raise InputError(
                f"{file}: expected a plain LoRA, of which A and B are all, found "
                f"{field.name}: {shown}"
            )
    if config.init_lora_weights not in STARTS:
        raise InputError(
            f"{file}: expected a LoRA of an unchanged base, found init_lora_weights: "
            f"{config.init_lora_weights}, which changes it (PEFT's save_pretrained can convert it)"
        )


def write(
    config: LoraConfig,
    tensors: Mapping[str, torch.Tensor],
    alphas: Mapping[str, float],
    output: str | Path,
) -> None:
    """Write an adapter in PEFT's format, the same bytes in every process.

    Parameters
    ----------
    config : what of it is not about ranks and scalings.
    tensors : by PEFT's names.
    alphas : ``lora_alpha`` of each module; ranks are those of the tensors.
    """
    ranks = {module: len(tensors[names["A"]]) for module, names in pairs_of(tensors).items()}
    r, rank_pattern = _as_pattern(ranks)
    alpha, alpha_pattern = _as_pattern(
        {module: int(a) if float(a).is_integer() else a for module, a in alphas.items()}
    )
    config = dataclasses.replace(
        config,
        r=r,
        lora_alpha=alpha,
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        inference_mode=True,
        peft_version=None,
    )
    # PEFT keeps names in sets, whose order differs from process to process.
    for key in ("target_modules", "exclude_modules"):
        if isinstance(getattr(config, key), set):
            setattr(config, key, sorted(getattr(config, key)))
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(output)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        output / WEIGHTS,
        metadata={"format": "pt"},
    )


def pairs_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, str]]:
    """Of each module, by its name in the base, the names of its ``A`` and ``B``."""
    pairs: dict[str, dict[str, str]] = {}
    for name in sorted(tensors):
        module, part = TENSOR.fullmatch(name).groups()
        pairs.setdefault(module.removeprefix("base_model.model."), {})[part] = name
    return pairs


def divisor(config: LoraConfig, rank: int) -> float:
    """What ``lora_alpha`` is divided by to be the scaling."""
    return math.sqrt(rank) if config.use_rslora else rank


def _of_pattern(pattern: Mapping[str, float], module: str, default: float) -> float:
    """A module's value, by PEFT's way to look it up."""
    return pattern.get(get_pattern_key(pattern, module), default)


def _as_pattern(values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
    """The most frequent value, and those of the modules that have another."""
    default = Counter(values.values()).most_common(1)[0][0]
    return default, {module: value for module, value in values.items() if value != default}
