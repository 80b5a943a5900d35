"""How large a model is: parameters that a token passes through, and bytes as it is served."""

from pathlib import Path

import torch


def active_parameters(model: torch.nn.Module) -> int:
    """Parameters of a model that take part in one token's forward pass.

    All of them, but of a mixture's experts only the share that a router chooses. Embeddings
    count too, though a lookup multiplies nothing: arithmetic with it errs on the long side.

    Parameters
    ----------
    model : without adapter, on any device.
    """
    config = model.config.get_text_config()
    chosen = getattr(config, "num_experts_per_tok", None)
    total = 0
    for name, parameter in model.named_parameters():  # tied ones come once
        # transformers keeps the experts of a layer as one parameter, experts first.
        if chosen and parameter.dim() == 3 and ".experts." in name:
            total += parameter.numel() * chosen // len(parameter)
        else:
            total += parameter.numel()
    return total


def served_bytes(folder: str | Path, model: torch.nn.Module) -> int:
    """Bytes of a model's weights on the disk, as they were fetched.

    Of a folder without weights, what its configuration says: its parameters in its dtype, or
    in two bytes if it names none.

    Parameters
    ----------
    model : the folder's, without adapter, on any device.
    """
    files = list(Path(folder).glob("*.safetensors"))
    if files:
        return sum(file.stat().st_size for file in files)
    dtype = model.config.get_text_config().dtype or torch.bfloat16
    width = getattr(torch, dtype).itemsize if isinstance(dtype, str) else dtype.itemsize
    return width * sum(parameter.numel() for parameter in model.parameters())
