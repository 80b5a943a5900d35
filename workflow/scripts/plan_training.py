"""Say before anything is spent what training will take: steps, tokens, GPU memory."""

from pathlib import Path

from spillover.alignment import plan
from spillover.core.files import read_table, replacing, write_table
from spillover.core.logs import log_to

with log_to(snakemake.log[0]):
    params = snakemake.params
    pairs = {Path(path).parent.name: read_table(path) for path in snakemake.input.pairs}
    jobs = [
        {
            "model": Path(folder).name,
            "alignment": alignment,
            "model_folder": folder,
            "pairs": pairs[alignment],
            **{key: params.alignments[alignment][key] for key in ("objective", "lora", "training")},
            **{key: model[key] for key in ("quantization", "dtype", "chat_template")},
        }
        for folder in snakemake.input.models
        for model in [params.models[Path(folder).name]]
        for alignment in pairs
    ]
    table, text = plan.plan(jobs, params.machine)
    write_table(table, snakemake.output.table)
    with replacing(snakemake.output.text) as path:
        path.write_text(text)
