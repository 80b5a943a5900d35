"""Whether a folder's files hold the weights of its architecture: all, whole, and no others."""

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from spillover.core.errors import InputError, first_line
from spillover.models.architecture import read_config

INDEX = "model.safetensors.index.json"
# Types of numbers, as safetensors names them, that are weights and no codes for weights.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
EXPECTED = (
    "expected them in bfloat16, float16 or float32: use the model that they were made of, or "
    "dequantise and save it with transformers; quantization: nf4 quantises it here"
)
LFS_POINTER = b"version https://git-lfs"


def check_weights(folder: str | Path) -> None:
    """Refuse a folder whose weights are not those of its architecture; only headers are read.

    The names in the files are matched with the architecture's by transformers' own loader, with
    tensors that have shapes and no values. Tied parameters and buffers that it computes itself
    need not be there.

    Raises
    ------
    InputError
        If a file is missing, cut or a pointer; if weights are quantised; if a parameter is
        missing or has another shape; or if a tensor is left over.
    """
    folder = Path(folder)
    config = json.loads((folder / "config.json").read_text())
    quantized = config.get("quantization_config") or config.get("compression_config")
    if quantized:
        raise InputError(f"{folder}: its weights are quantised ({_method(quantized)}); {EXPECTED}")
    files = weight_files(folder)
    headers = {}
    for file in files:
        headers |= read_header(file)
    _check_index(folder, headers)
    weights = {name: header for name, header in headers.items() if header[0] in DTYPES}
    codes = sorted(set(headers) - set(weights))
    try:
        refuse_faults(folder, *_match(folder, weights))
    except InputError as error:
        if not codes:
            raise
        raise InputError(
            f"{folder}: its weights are quantised ({codes[0]} is of type {headers[codes[0]][0]}); "
            f"{EXPECTED}"
        ) from error


def refuse_faults(folder: str | Path, model: torch.nn.Module, loaded: Mapping) -> None:
    """Refuse a model whose parameters are not all, and no others, those of its folder.

    Parameters
    ----------
    loaded : transformers' ``loading_info``: ``missing_keys``, ``mismatched_keys`` (name, shape in
        the file, shape of the architecture), ``unexpected_keys``, ``error_msgs``. It leaves out
        what is tied, and what an architecture is known to leave aside.

    Raises
    ------
    InputError
        With the first fault.
    """
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing = parameters.intersection(loaded["missing_keys"])
    misshapen, leftover = loaded["mismatched_keys"], loaded["unexpected_keys"]
    if missing:
        raise InputError(
            f"{folder}: {counted(missing, 'parameter')} of its architecture not in its files"
        )
    if misshapen:
        name, found, expected = min(misshapen)
        more = f", and {len(misshapen) - 1} more of other shapes" if len(misshapen) > 1 else ""
        raise InputError(
            f"{folder}: expected {name} of shape {tuple(expected)}, as its architecture has it, "
            f"found {tuple(found)}{more}"
        )
    if leftover:
        raise InputError(
            f"{folder}: {counted(leftover, 'tensor')} left over, for which its architecture has "
            "no parameter"
        )
    if loaded["error_msgs"]:
        raise InputError(f"{folder}: {loaded['error_msgs'][0]}")


def weight_files(folder: str | Path) -> list[Path]:
    """The files that transformers loads: ``model.safetensors``, or every shard of the index.

    Raises
    ------
    InputError
        If there are none, or a shard of the index is missing.
    """
    folder = Path(folder)
    single, index = folder / "model.safetensors", folder / INDEX
    if single.is_file():
        return [single]
    if not index.is_file():
        others = sorted(
            file.name
            for file in folder.iterdir()
            if file.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf")
        )
        raise InputError(
            f"{folder}: expected weights as model.safetensors, or shards with {INDEX}; found "
            f"{', '.join(others) or 'none'}{_other_weights_hint(others)}"
        )
    shards = sorted(set(_weight_map(index).values()))
    absent = [shard for shard in shards if not (folder / shard).is_file()]
    if absent:
        raise InputError(
            f"{folder}: {len(absent)} of the {len(shards)} files that {INDEX} names are missing "
            f"(first: {absent[0]})"
        )
    return [folder / shard for shard in shards]


def read_header(file: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor of a safetensors file, which must be whole.

    Raises
    ------
    InputError
        If the file is a git-LFS pointer, cut or damaged.
    """
    file = Path(file)
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise InputError(
                f"{file}: expected weights, found a git-LFS pointer to them; run git lfs pull "
                "in its repository"
            )
    try:
        with safe_open(file, framework="pt") as tensors:
            slices = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118
            return {name: (s.get_dtype(), tuple(s.get_shape())) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{file}: cut or damaged ({error}; {file.stat().st_size} bytes); get it anew"
        ) from error


def _weight_map(index: Path) -> Mapping[str, str]:
    try:
        return json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: expected JSON with a weight_map, found none") from error


def _check_index(folder: Path, headers: Mapping) -> None:
    """Refuse shards without a tensor that the index names: they are of another model."""
    if (folder / "model.safetensors").is_file():
        return
    absent = sorted(set(_weight_map(folder / INDEX)) - set(headers))
    if absent:
        raise InputError(
            f"{folder}: {counted(absent, 'tensor')} that {INDEX} names not in its files"
        )


def _match(
    folder: Path, headers: Mapping[str, tuple[str, tuple[int, ...]]]
) -> tuple[torch.nn.Module, dict]:
    """The architecture without values, and what transformers' loader says of the tensors."""
    config = read_config(folder)
    tensors = {
        name: torch.empty(shape, dtype=DTYPES[dtype], device="meta")
        for name, (dtype, shape) in headers.items()
    }
    # It reports, and says that it goes on with new numbers, which it does not here.
    report = logging.getLogger("transformers.modeling_utils")
    level = report.level
    report.setLevel(logging.ERROR)
    try:
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            device_map={"": "meta"},
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    except RuntimeError as error:  # a conversion of the loader's that does not come out
        raise InputError(
            f"{folder}: its tensors do not make those of its architecture: {first_line(error)}"
        ) from error
    finally:
        report.setLevel(level)


def _method(quantized: Mapping) -> str:
    if quantized.get("load_in_4bit"):
        return f"bitsandbytes, {quantized.get('bnb_4bit_quant_type', 'fp4')}"
    return str(quantized.get("quant_method", "in a way of its own"))


def _other_weights_hint(names: Iterable[str]) -> str:
    if any(name.startswith("consolidated") for name in names):
        return " (Mistral's own format, with other names)"
    if any(name.endswith((".bin", ".pt", ".pth")) for name in names):
        return " (pickles are never loaded: save the model with safe_serialization)"
    return ""


def counted(names: Iterable[str], what: str) -> str:
    """A name, or the number of several and the first, for a line of text."""
    names = sorted(names)
    return f"{what} {names[0]}" if len(names) == 1 else f"{len(names)} {what}s (first: {names[0]})"
