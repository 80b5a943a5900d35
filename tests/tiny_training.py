"""A short training of a tiny model."""

from preferences import make_pairs
from safetensors.torch import load_file
from spillover.alignment.train import train as align


def train(folder, scratch, pairs=None, **changes):
    """Two or so steps on a tiny model, unless told otherwise."""
    settings = {"objective": {}, "lora": {}, "quantization": "none", "dtype": "float32"}
    settings |= {"device": "cpu", "seed": 0, "training": {}} | changes
    settings["training"] = {"pairs_per_step": 4, "learning_rate": 1e-3} | settings["training"]
    return align(
        make_pairs(4, "three_option") if pairs is None else pairs,
        folder,
        checkpoints=scratch / "checkpoints",
        output=scratch / "adapter",
        **settings,
    )


def weights(scratch):
    return load_file(scratch / "adapter" / "adapter_model.safetensors")
