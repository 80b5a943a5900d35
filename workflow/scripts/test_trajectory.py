"""Changes along training, items, strength or rank; and what comes first, spillover or gain."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.statistics.runs import read_change
from spillover.statistics.trajectory import COLUMNS, TIMING_COLUMNS, kinds_of, point, timing


def changes_of(series: dict, model: str) -> dict[str, list[tuple]]:
    """By kind what is compared at each point (at, of, minus) and each item's change there."""
    changes: dict[str, list[tuple]] = {}
    controls = params.controls
    if series["along"] == "training":
        # What is no training has no way; at its end it is no control of what is on its own.
        followed = {run.rpartition("/")[0] for run in next(iter(params.on_the_way[model].values()))}
        controls = {name: control for name, control in controls.items() if control in followed}
    for one in series["points"]:
        files_by_run = params.runs[model]
        if "share" in one:
            files_by_run = files_by_run | params.on_the_way[model][one["share"]]
        for kind, (of, minus) in kinds_of(one["alignment"], controls).items():
            change = read_change(files_by_run, of, minus, items, heldout, params.blocks)
            changes.setdefault(kind, []).append((one["at"], of, minus, change))
    return changes


with log_to(snakemake.log[0]):
    params, settings = snakemake.params, snakemake.params.statistics
    items = pd.concat(map(read_table, snakemake.input.item_tables), ignore_index=True)
    heldout = {Path(path).parent.name: read_table(path) for path in snakemake.input.heldout}
    tables, timings = [], []
    for model in params.runs:
        for series in params.series:
            on_the_way = series["along"] == "training"
            if on_the_way and model not in params.on_the_way:
                continue  # of answers made elsewhere there are none on the way
            targeted = params.targets[series["of"]]
            for points in changes_of(series, model).values():
                for at, of, minus, change in points:
                    found = point(items, change, targeted, settings["alpha"])
                    keys = {"model": model, "along": series["along"], "of": series["of"], "at": at}
                    tables.append(found.assign(**keys, alignment=of, minus=minus or ""))
                if on_the_way:
                    by_share = {at: change for at, *_, change in points}
                    found = timing(items, by_share, targeted, settings)
                    timings.append(found.assign(model=model, of=of, minus=minus or ""))
    write_table(pd.concat(tables, ignore_index=True)[COLUMNS], snakemake.output.trajectory)
    timings = pd.concat(timings, ignore_index=True) if timings else pd.DataFrame()
    write_table(timings.reindex(columns=TIMING_COLUMNS), snakemake.output.timing)
