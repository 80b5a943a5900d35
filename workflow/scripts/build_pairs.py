"""Split the targeted attributes' items and make preference pairs of the training part."""

import json

import pandas as pd
from spillover.core.files import read_table, replacing, write_table
from spillover.core.logs import log_to
from spillover.data import other_prompts, samples
from spillover.data import pairs as preference

with log_to(snakemake.log[0]):
    split = snakemake.params.split
    items = pd.concat(map(read_table, snakemake.input.targets), ignore_index=True)
    items = samples.exclude_groups(items, snakemake.params.exclude_groups)
    train, heldout = samples.split_heldout(items, split["by"], split["heldout"], split["seed"])
    pairs = preference.build_pairs(train, **snakemake.params.pairs, seed=split["seed"])
    settings = {"split": split, "pairs": snakemake.params.pairs}
    settings["exclude_groups"] = snakemake.params.exclude_groups
    held = [heldout]
    if snakemake.input.others:
        # Prompts that the objective takes beside the pairs: not evaluated on either.
        others = pd.concat(map(read_table, snakemake.input.others), ignore_index=True)
        held.append(other_prompts.split_each(others, split, snakemake.params.exclude_groups)[1])
    write_table(pairs, snakemake.output.train)
    write_table(pd.concat(held, ignore_index=True)[["item_id"]], snakemake.output.heldout)
    with replacing(snakemake.output.manifest) as path:
        manifest = settings | preference.manifest(items, pairs, heldout)
        path.write_text(json.dumps(manifest, indent=2) + "\n")
