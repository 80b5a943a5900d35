"""The plan of studies/paper.yaml without a network: arithmetic, and no measurement.

    python benchmarks/plan.py

The shapes of its models are written down here as their configurations have them. Their
tokenizers are not here: another model's takes their place, and tokens are that one's.
"""

import sys
from pathlib import Path

# In place of this folder, whose statistics.py would hide the standard library's.
sys.path[0] = str(Path(__file__).parents[1] / "workflow" / "scripts")

import argparse
import json
import logging
import tempfile

import pandas as pd
import yaml
from snakemake.utils import validate
from spillover import study_plan
from spillover.data import bbq, samples
from spillover.data import pairs as preference
from spillover.models.load import load_tokenizer
from transformers import AutoConfig

ROOT = Path(__file__).parents[1]
LAYERS = {"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32}
SHAPES = {
    "mistral-7b": ("mistral", LAYERS | {"hidden_size": 4096, "intermediate_size": 14336}, 32768),
    "llama-3.1-8b": ("llama", LAYERS | {"hidden_size": 4096, "intermediate_size": 14336}, 128256),
    "qwen2.5-7b": (
        "qwen2",
        {
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "num_hidden_layers": 28,
            "hidden_size": 3584,
            "intermediate_size": 18944,
        },
        152064,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--study", default=ROOT / "studies" / "paper.yaml")
    parser.add_argument("--tokenizer", default="resources/models/smollm2-135m")
    parser.add_argument("--bbq", default="resources/bbq", help="the published files")
    arguments = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    study = json.loads(json.dumps(yaml.safe_load(Path(arguments.study).read_text())))
    validate(study, str(ROOT / "workflow" / "schemas" / "config.schema.yaml"))
    items = read_items(arguments.bbq, study["evaluation"]["attributes"])
    pairs, heldout = {}, {}
    for name, alignment in study["alignments"].items():
        pairs[name], heldout[name] = prepare(items, alignment)
    with tempfile.TemporaryDirectory() as place:
        folders = {name: write(Path(place) / name, arguments.tokenizer) for name in study["models"]}
        print(
            study_plan.plan(
                study,
                folders,
                items=items,
                pairs=pairs,
                heldout=heldout,
                sets={},
                machine=study["machine"],
            )[2]
        )


def read_items(folder: str, attributes: list[str]) -> pd.DataFrame:
    pins = yaml.safe_load((ROOT / "resources" / "bbq.yaml").read_text())
    files = bbq.read_folder(folder, pins)
    metadata = files["additional_metadata.csv"]
    tables = [
        bbq.prepare_items(files[f"{name}.jsonl"], metadata, name, pins["attributes"][name])
        for name in attributes
    ]
    return pd.concat(tables, ignore_index=True)


def prepare(items: pd.DataFrame, alignment: dict) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Pairs and held-out items of an alignment, as the rule ``build_pairs`` makes them."""
    split = alignment["split"]
    items = items[items["attribute"].isin(alignment["target"])]
    items = samples.exclude_groups(items, alignment["exclude_groups"])
    train, heldout = samples.split_heldout(items, split["by"], split["heldout"], split["seed"])
    return preference.build_pairs(train, **alignment["pairs"], seed=split["seed"]), heldout


def write(folder: Path, tokenizer: str) -> Path:
    """A folder of a model without weights: its shapes, and another's tokenizer."""
    kind, shape, vocabulary = SHAPES[folder.name]
    config = AutoConfig.for_model(
        kind, **shape, vocab_size=vocabulary, tie_word_embeddings=False, dtype="bfloat16"
    )
    config.save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
