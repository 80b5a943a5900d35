"""Targets against attributes: what aligning for each does to all of them, as one family of tests.

Nothing is estimated here. The changes are those of ``spillover.tsv``, and what of them the
controls have not is that of ``contrasts.tsv``; a matrix puts them side by side and corrects them
together, because who looks for the cell that spilled looks at every cell.
"""

from collections.abc import Collection, Mapping

import pandas as pd

from spillover.statistics.corrections import adjust, verdicts

COLUMNS = [
    "model",
    "alignment",
    "minus",
    "target",
    "attribute",
    "context",
    "targeted",
    "n_items",
    "n_templates",
    "delta_accuracy",
    "delta_low",
    "delta_high",
    "cluster_p",
    "cluster_p_adjusted",
    "delta_bias",
    "delta_bias_low",
    "delta_bias_high",
    "bias_p",
    "bias_p_adjusted",
    "verdict",
]
# Rows of contrasts.tsv that are of several attributes together.
POOLED = ("all", "untargeted")
# What contrasts.tsv calls the columns of a change.
OF_CONTRASTS = {
    "of": "alignment",
    "difference": "delta_accuracy",
    "difference_low": "delta_low",
    "difference_high": "delta_high",
    "bias_difference": "delta_bias",
    "bias_difference_low": "delta_bias_low",
    "bias_difference_high": "delta_bias_high",
}


def matrix(
    spillover: pd.DataFrame,
    contrasts: pd.DataFrame | None,
    targets: Mapping[str, Collection[str]],
    controls: Mapping[str, str],
    settings: Mapping,
) -> pd.DataFrame:
    """The spillover matrix of each model: every alignment's effect on every attribute.

    Parameters
    ----------
    spillover : changes, as ``spillover.tsv`` has them.
    contrasts : changes minus the controls', as ``contrasts.tsv`` has them; None without any.
    targets : of each alignment the attributes that it targets.
    controls : the control of each alignment that has one.
    settings : ``alpha``, ``correction``.

    Returns
    -------
    One row a model, alignment, attribute and context, twice where the alignment has a control:
    ``minus`` is empty for the change itself, and names the control for what that has not. The
    ``target`` of an alignment with several is their names, joined by ``+``.

    A family is the untargeted cells of one model and context: of the changes net of a control,
    of those as they are, and of the controls' own. A targeted attribute, on the diagonal, keeps
    its raw p-value: it asks whether alignment worked.
    """
    raw = spillover.assign(minus="")
    tables = [raw]
    if contrasts is not None:
        net = contrasts[contrasts["contrast"].isin(controls) & ~contrasts["attribute"].isin(POOLED)]
        tables.append(net.rename(columns=OF_CONTRASTS))
    table = pd.concat(tables, ignore_index=True)
    table["target"] = table["alignment"].map({name: "+".join(of) for name, of in targets.items()})
    table["targeted"] = [
        attribute in targets[alignment]
        for alignment, attribute in zip(table["alignment"], table["attribute"], strict=True)
    ]
    is_control = table["alignment"].isin(set(controls.values()) - set(controls))
    kind = table["minus"].ne("").map({True: "net", False: "raw"}).mask(is_control, "control")
    family = kind + "/" + table["model"].astype(str) + "/" + table["context"]
    family = family.where(~table["targeted"])
    for p in ("cluster_p", "bias_p"):
        table[f"{p}_adjusted"] = adjust(table[p], family, settings["correction"])
    table["verdict"] = verdicts(
        table["delta_accuracy"],
        table["cluster_p_adjusted"],
        table["equivalence_p"],
        settings["alpha"],
    )
    return table[COLUMNS]
