"""Changes along training, items, strength or rank; and what comes first, spillover or gain."""

from pathlib import Path

import pandas as pd
from spillover.core.files import read_table, write_table
from spillover.core.logs import log_to
from spillover.data.samples import asked_items, heldout_for
from spillover.statistics import runs
from spillover.statistics.profiles import net_change
from spillover.statistics.trajectory import COLUMNS, TIMING_COLUMNS, point, timing


def change_at(share: str | None, model: str, of: str, minus: str | None) -> pd.Series:
    """Each item's change by an alignment, on the way or in the end, net of a control's."""
    files_by_run = params.runs[model]
    at = files_by_run if share is None else params.on_the_way[model][share]
    asked = asked_items(items, heldout_for(of, heldout), params.blocks)
    base = runs.read_run(files_by_run["base"], items, asked)
    change, control = (name and runs.read_seeds(at, name, items, asked) for name in (of, minus))
    answered = runs.items_of(items, next(iter(change.values())))
    return net_change(answered, base, change, control)


def kinds_of(one: dict) -> dict[str, tuple[str, str | None]]:
    """What is shown of a point: the alignment, its control, and the one without the other."""
    name = one["alignment"]
    control = params.controls.get(name)
    if control is None:
        return {"raw": (name, None)}
    return {"raw": (name, None), "control": (control, None), "net": (name, control)}


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
            changes: dict[str, dict[float, pd.Series]] = {}
            for one in series["points"]:
                for kind, (of, minus) in kinds_of(one).items():
                    change = change_at(one.get("share"), model, of, minus)
                    changes.setdefault(kind, {})[one["at"]] = change
                    keys = {key: series[key] for key in ("along", "of")} | {"at": one["at"]}
                    keys |= {"model": model, "alignment": of, "minus": minus or ""}
                    found = point(items, change, targeted, settings["alpha"])
                    tables.append(found.assign(**keys))
            for kind, by_share in changes.items() if on_the_way else ():
                of, minus = kinds_of(series["points"][-1])[kind]
                found = timing(items, by_share, targeted, settings)
                timings.append(found.assign(model=model, of=of, minus=minus or ""))
    write_table(pd.concat(tables, ignore_index=True)[COLUMNS], snakemake.output.trajectory)
    timings = pd.concat(timings, ignore_index=True) if timings else pd.DataFrame()
    write_table(timings.reindex(columns=TIMING_COLUMNS), snakemake.output.timing)
