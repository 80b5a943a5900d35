"""A small study of the whole workflow: tiny models, two attributes, an alignment, its control."""

from pathlib import Path

ATTRIBUTES = ["Gender_identity", "Religion"]


def study(published: Path, models: dict[str, Path], **training) -> dict:
    """Models aligned for gender, with a control; those whose name is nf4 are quantised."""
    gender = {
        "target": ["Gender_identity"],
        "exclude_groups": "^(trans|nonTrans)",
        "pairs": {"max_items": 16},
        "training": {"pairs_per_step": 8, "learning_rate": 1.0e-3} | training,
    }
    return {
        "study": "tiny",
        "bbq": {"type": "path", "path": str(published)},
        "models": {
            name: {
                "source": {"type": "path", "path": str(folder)},
                "quantization": "nf4" if "nf4" in name else "none",
                "dtype": "float32",
            }
            for name, folder in models.items()
        },
        "alignments": {
            "gender": gender | {"control": "shuffled"},
            "shuffled": gender | {"pairs": {"max_items": 16, "preferences": "shuffled"}},
        },
        "evaluation": {"attributes": ATTRIBUTES, "blocks_per_attribute": 3},
        "statistics": {"resamples": 200},
        "machine": {"device": "cpu"},
    }
