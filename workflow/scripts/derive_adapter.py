"""Make an adapter of others, without training: cut to a lower rank, or merged."""

import json
from pathlib import Path

import torch
from spillover.alignment import derived_card
from spillover.alignment.derive import complete, merge, truncate
from spillover.core.files import file_sha256, replacing
from spillover.core.logs import log_to

with log_to(snakemake.log[0]), replacing(Path(snakemake.output.weights).parent) as folder:
    torch.set_num_threads(snakemake.threads)
    files, seed = snakemake.input.adapters, int(snakemake.wildcards.seed)
    sources = [Path(file).parent for file in files]
    derive = snakemake.params.derive
    if "merge" in derive:
        derive = complete(derive)
        names = derive["merge"]
        merge(
            sources,
            derive["weights"],
            derive["method"],
            folder,
            snakemake.input.model,
            derive.get("density"),
            seed,
        )
    else:
        names = [derive["from"]]
        truncate(sources[0], derive["truncate_rank"], folder)
    record = Path(snakemake.input.model) / "source.json"
    derived_card.write(
        folder,
        json.loads(record.read_text()) if record.is_file() else {},
        settings=derive,
        parts=dict(zip(names, map(file_sha256, files), strict=True)),
        seed=seed,
    )
