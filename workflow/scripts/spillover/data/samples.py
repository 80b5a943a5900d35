"""Which items are trained on, held out and evaluated: samples and splits of whole blocks."""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from spillover.core.errors import InputError


def spread_blocks(items: pd.DataFrame, n_blocks: int | None, seed: int = 0) -> pd.DataFrame:
    """Items of ``n_blocks`` blocks, spread over the templates as evenly as they allow.

    Samples are nested: a larger one contains the smaller, so enlarging a study keeps what it
    had. ``None``, or more blocks than there are, gives every item. The order of rows is kept.
    """
    # a block's number is its attribute's own
    key = ["attribute", "block"]
    blocks = items[[*key, "template"]].drop_duplicates(key).reset_index(drop=True)
    if n_blocks is None or n_blocks >= len(blocks):
        return items
    rng = np.random.default_rng(seed)
    blocks = blocks.iloc[rng.permutation(len(blocks))]
    # first each template's first block, then each one's second, …
    turn = blocks.groupby("template", sort=False).cumcount()
    chosen = blocks.iloc[np.argsort(turn.to_numpy(), kind="stable")[:n_blocks]]
    return items[pd.MultiIndex.from_frame(items[key]).isin(pd.MultiIndex.from_frame(chosen[key]))]


def exclude_groups(items: pd.DataFrame, pattern: str | None) -> pd.DataFrame:
    """Items none of whose answers belongs to a group that matches the regular expression."""
    if not pattern:
        return items
    excluded = re.compile(pattern)
    return items[~items["groups"].map(lambda groups: any(map(excluded.search, groups)))]


def split_heldout(
    items: pd.DataFrame, by: str, heldout: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training and held-out items, disjoint by whole templates or by item.

    ``template`` holds out that share of the templates of each attribute and label type (labels
    and names alike), to the nearest whole number; ``item`` holds out int(heldout x items)
    items, as the paper does: its held-out items share their templates, and most of their
    words, with training.

    Raises
    ------
    InputError
        If either side would be left without items of an attribute.
    """
    if by == "item":
        rng = np.random.default_rng(seed)
        chosen = items["item_id"].iloc[rng.permutation(len(items))[: int(heldout * len(items))]]
        held = items["item_id"].isin(chosen)
    else:
        chosen = []
        for _, of_attribute in items.groupby("attribute"):
            # Drawn anew: what is held out of an attribute does not depend on other targets.
            rng = np.random.default_rng(seed)
            for _, group in of_attribute.groupby("label_type"):
                templates = group["template"].unique()
                n = int(heldout * len(templates) + 0.5)
                chosen.extend(rng.permutation(templates)[:n])
        held = items["template"].isin(chosen)
    for attribute, side in held.groupby(items["attribute"]):
        if side.all() or not side.any():
            raise InputError(
                f"split.heldout: {heldout} of {len(side)} items of {attribute} by {by} leaves "
                f"{(~side).sum()} to train on and {side.sum()} held out; both need at least one"
            )
    return items[~held], items[held]


def evaluated_items(
    items: pd.DataFrame, heldout: Sequence[pd.DataFrame], n_blocks: int | None
) -> pd.DataFrame:
    """Items of an attribute to evaluate: for each alignment a sample, taken together.

    Parameters
    ----------
    heldout : one table with ``item_id`` for each alignment: the sample is of what it held out of
        this attribute or, if it held out nothing of it, of all its items. The aligned run passes
        its own; the base run passes all, and covers each of the samples.
    """
    samples = []
    for table in heldout:
        mine = items[items["item_id"].isin(table["item_id"])]
        samples.append(spread_blocks(mine if len(mine) else items, n_blocks))
    samples = samples or [spread_blocks(items, n_blocks)]
    return items[items["item_id"].isin(pd.concat(samples)["item_id"])]


def asked_items(
    items: pd.DataFrame, heldout: Sequence[pd.DataFrame], n_blocks: int | None
) -> pd.DataFrame:
    """Items to evaluate over all attributes: samples, of held-out items where targeted.

    Parameters
    ----------
    heldout : held-out items (``item_id``), a table an alignment.
    """
    parts = [
        evaluated_items(table, heldout, n_blocks)
        for _, table in items.groupby("attribute", sort=False)
    ]
    return pd.concat(parts, ignore_index=True)


def heldout_for(run: str, heldout: Mapping[str, pd.DataFrame]) -> list[pd.DataFrame]:
    """What a run is evaluated on of the targeted attributes, of held-out items by alignment.

    An aligned run on what its alignment held out, the base on what any did.
    """
    return [
        held
        for name, held in heldout.items()
        if run in ("base", name) or run.startswith(f"{name}/")
    ]


def heldout_elsewhere(
    items: pd.DataFrame, trained_on: Collection[str], exclude: str | None = None
) -> pd.DataFrame:
    """Items of the targeted attributes that training elsewhere has not seen.

    Parameters
    ----------
    items : item tables of the attributes that the alignment targets.
    trained_on : ids of the items that it was trained on; none if that is not known.
    exclude : as in :func:`exclude_groups`.

    Raises
    ------
    InputError
        If it was trained on items that are not of its targets, or none of one is left.
    """
    strange = set(trained_on) - set(items["item_id"])
    if strange:
        raise InputError(
            f"{len(strange)} of its {len(set(trained_on))} items are none of its target's "
            f"attributes (first: {min(strange)}); expected ids such as {items['item_id'].iloc[0]}"
        )
    left = exclude_groups(items, exclude)
    left = left[~left["item_id"].isin(trained_on)]
    for attribute in items["attribute"].unique():
        if not left["attribute"].eq(attribute).any():
            raise InputError(f"of {attribute} none is left to evaluate")
    return left


def heldout_by_all(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Items that several alignments have held out, each of the attributes that it touched.

    Parameters
    ----------
    tables : held-out items (``item_id``), a table an alignment. One that has none of an attribute
        was not trained on any of it.

    Raises
    ------
    InputError
        If of an attribute there is none.
    """
    attributes = [table["item_id"].str.rsplit(":", n=1).str[0] for table in tables]
    kept = tables[0].iloc[:0]
    for attribute in dict.fromkeys(name for names in attributes for name in names):
        parts = [
            table[names == attribute]
            for table, names in zip(tables, attributes, strict=True)
            if (names == attribute).any()
        ]
        common = set.intersection(*(set(part["item_id"]) for part in parts))
        if not common:
            raise InputError(
                f"derive: no item of {attribute} was held out by all {len(parts)} alignments that "
                "were trained on it; give them the same split"
            )
        kept = pd.concat([kept, parts[0][parts[0]["item_id"].isin(common)]])
    return kept.reset_index(drop=True)
