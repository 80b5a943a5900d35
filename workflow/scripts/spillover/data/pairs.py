"""Preference pairs for DPO: the correct answer against each of the other two.

The correct answer is *unknown* in ambiguous contexts, and the option that the context gives
evidence for in disambiguated ones.
"""

import json

import numpy as np
import pandas as pd

from spillover.core.files import sha256
from spillover.data.bbq import spread_blocks
from spillover.data.prompts import LETTERS, letter_of, multiple_choice


def build_pairs(
    items: pd.DataFrame, format: str, max_items: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """Two preference pairs an item, in TRL's conversational form.

    Parameters
    ----------
    format : ``three_option``: the prompt of the evaluation; the two pairs of an item share it.
        ``two_option``: the paper's; each pair shows the correct answer and one other.
    max_items : at most so many items, as whole blocks spread over the templates.

    Returns
    -------
    ``item_id, prompt, chosen, rejected``; the last three are lists of messages. The correct
    answer stands equally often behind each letter (to within one item, in every combination
    of context and polarity), so that no letter can be learnt in its place.
    """
    if max_items is not None:
        items = spread_blocks(items, max_items // 4, seed)
    rng = np.random.default_rng(seed)
    # The alternatives of an item, each a tuple of the options that its prompt shows.
    rows = [
        (item, shown)
        for item in items.to_dict("records")
        for shown in (
            [(0, 1, 2)]
            if format == "three_option"
            else [tuple(sorted((item["gold"], other))) for other in _others(item["gold"])]
        )
    ]
    places = _balanced_places([item for item, _ in rows], len(rows[0][1]) if rows else 1, rng)
    pairs = []
    for (item, shown), place in zip(rows, places, strict=True):
        order = [str(option) for option in rng.permutation(shown) if option != item["gold"]]
        order.insert(place, str(item["gold"]))
        order = "".join(order)
        pairs += [
            {
                "item_id": item["item_id"],
                "prompt": multiple_choice(item, order),
                "chosen": _answer(LETTERS[place]),
                "rejected": _answer(letter_of(other, order)),
            }
            for other in _others(item["gold"])
            if other in shown
        ]
    return pd.DataFrame(pairs, columns=["item_id", "prompt", "chosen", "rejected"])


def _others(gold: int) -> list[int]:
    return [option for option in range(3) if option != gold]


def _answer(letter: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": letter}]


def _balanced_places(items: list[dict], n_places: int, rng: np.random.Generator) -> np.ndarray:
    """Place of the correct answer for each row: dealt in turn within context and polarity,
    template after template, so that each template is balanced too."""
    table = pd.DataFrame(items, columns=["context_condition", "polarity", "template"])
    table["shuffle"] = rng.permutation(len(table))
    table = table.sort_values(["context_condition", "polarity", "template", "shuffle"])
    return pd.Series(np.arange(len(table)) % n_places, table.index).sort_index().to_numpy()


def manifest(items: pd.DataFrame, pairs: pd.DataFrame, heldout: pd.DataFrame) -> dict:
    """What was made: counts, in which a shortcut would be visible, and the hash of the pairs.

    Parameters
    ----------
    items : item table of the targeted attributes.
    """
    trained = items[items["item_id"].isin(pairs["item_id"])]
    joined = pairs.merge(trained, on="item_id")
    joined["letter"] = [chosen[0]["content"] for chosen in joined["chosen"]]

    def counts(*columns: str) -> dict[str, int]:
        sizes = joined.groupby(list(columns)).size()
        return {
            " ".join(key) if isinstance(key, tuple) else key: int(n) for key, n in sizes.items()
        }

    shared = set(trained["template"]) & set(
        items.loc[items["item_id"].isin(heldout["item_id"]), "template"]
    )
    return {
        "n_pairs": len(pairs),
        "n_items": len(trained),
        "n_templates": int(trained["template"].nunique()),
        "n_heldout_items": len(heldout),
        "n_templates_in_both": len(shared),
        "pairs_by_gold_letter": counts("letter"),
        "pairs_by_context_and_gold_letter": counts("context_condition", "letter"),
        "pairs_by_polarity_and_gold_letter": counts("polarity", "letter"),
        "pairs_by_template": counts("template"),
        "sha256": sha256(
            json.dumps(pairs.to_dict("records"), sort_keys=True, default=list).encode()
        ),
    }
