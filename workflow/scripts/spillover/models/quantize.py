"""Quantise a model once: NF4 weights as safetensors, loaded from then on as they are."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

from transformers.quantizers.base import MODULES_TO_PATCH_FOR_QUANTIZATION

from spillover.core.errors import InputError
from spillover.core.files import folder_sha256
from spillover.models.load import RECORD, load_model


def quantize(folder: str | Path, output: str | Path, dtype: str) -> None:
    """Write a model's NF4 weights (double quantisation) with its tokenizer to ``output``.

    What is loaded from there equals, to the bit, what quantising ``folder`` at every load
    gives. It is always done on a CPU, so that every machine has the same weights.

    Parameters
    ----------
    folder : safetensors and tokenizer.
    output : an absent folder to fill.
    dtype : dtype of computation, and of the weights that are not quantised (embeddings, output
        head, norms); the weights are rounded to it before they are quantised.

    Raises
    ------
    InputError
        If bitsandbytes quantises nothing of the model, or transformers could not load what it
        quantised.
    """
    folder, output = Path(folder), Path(output)
    model = load_model(folder, "nf4", dtype, "cpu")
    if any(type(part).__name__ in MODULES_TO_PATCH_FOR_QUANTIZATION for part in model.modules()):
        raise InputError(
            f"quantization: nf4 is asked for, and transformers takes the experts of a quantised "
            f"{type(model).__name__} for others when it loads them; set quantization: none"
        )
    model.save_pretrained(output)
    for file in sorted(folder.iterdir()):
        weights = file.suffix == ".safetensors" or file.name.endswith(".safetensors.index.json")
        if file.is_file() and not weights and not (output / file.name).exists():
            shutil.copyfile(file, output / file.name)
    record = {"quantization": "nf4", "dtype": dtype, "bitsandbytes": version("bitsandbytes")}
    # What was computed with these weights is not kept for others.
    record["weights"] = folder_sha256(output, [".safetensors"])
    (output / RECORD).write_text(json.dumps(record, indent=2) + "\n")
