"""Preference pairs for DPO: the correct answer against each of the other two.

The correct answer is *unknown* in ambiguous contexts, and the option that the context gives
evidence for in disambiguated ones.
"""

import json

import numpy as np
import pandas as pd

from spillover.core.errors import InputError
from spillover.core.files import sha256
from spillover.data.prompts import (
    LETTERS,
    cloze_chat,
    cloze_reply,
    letter_of,
    multiple_choice,
)
from spillover.data.samples import spread_blocks

COLUMNS = ["item_id", "prompt", "chosen", "rejected"]


def build_pairs(
    items: pd.DataFrame,
    format: str,
    max_items: int | None = None,
    preferences: str = "correct",
    shuffle_seed: int = 0,
    seed: int = 0,
) -> pd.DataFrame:
    """Two preference pairs an item, in TRL's conversational form.

    Parameters
    ----------
    format : ``cloze``: the evaluation's question without options, answered in words.
        ``three_option``: the evaluation's prompt with lettered options. In both, the two pairs
        of an item share their prompt. ``two_option``: the paper's; each pair shows the correct
        answer and one other, with letters.
    max_items : at most so many items, as whole blocks spread over the templates.
    preferences : ``correct``: the correct answer is chosen. ``shuffled``: a control; see
        :func:`shuffle`.
    shuffle_seed : of ``shuffled``. Nothing else depends on it.

    Returns
    -------
    ``item_id, prompt, chosen, rejected``; the last three are lists of messages. The correct
    answer stands equally often behind each letter (to within one item, in every combination
    of context and polarity), so that no letter can be learnt in its place.

    Raises
    ------
    InputError
        If preferences are to be shuffled and an item has a single pair.
    """
    if max_items is not None:
        items = spread_blocks(items, max_items // 4, seed)
    records = items.to_dict("records")
    asked = _in_words(records) if format == "cloze" else _in_letters(records, format, seed)
    pairs = pd.DataFrame(asked, columns=[*COLUMNS, "other"])
    if preferences == "shuffled":
        pairs = shuffle(pairs, items, shuffle_seed)
    return pairs[COLUMNS]


def shuffle(pairs: pd.DataFrame, items: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Pairs without information: chosen and rejected swapped in one of each item's two.

    Prompts, texts and number of pairs stay as they are. Which of an item's two is swapped is
    balanced, to within one item, in every combination of context, polarity and template: as
    often the pair with the target as that with the other person, in ambiguous contexts; with
    the other person as with *unknown*, in disambiguated ones, and there among the items that
    are right about the target as among the others, so that neither person is preferred.

    Parameters
    ----------
    pairs : what :func:`build_pairs` makes, and ``other``, the option that is not the correct
        one (0-2).

    Raises
    ------
    InputError
        If an item has not got two pairs.
    """
    n_pairs = pairs.groupby("item_id").size()
    if (n_pairs != 2).any():
        raise InputError(
            "pairs.preferences: shuffled swaps one of each item's two pairs, found "
            f"{n_pairs[n_pairs != 2].iloc[0]} of {n_pairs[n_pairs != 2].index[0]}"
        )
    asked = items.set_index("item_id").loc[pairs["item_id"].unique()].reset_index()
    swapped = dict(zip(asked["item_id"], _halves(asked, seed), strict=True))
    # Which of its item's two a pair is, by what the other answer says, not by where it stands.
    facts = asked.set_index("item_id").loc[pairs["item_id"], ["unknown", "target"]]
    other = pairs["other"].to_numpy()
    says = 2 * (other == facts["unknown"].to_numpy()) + (
        other == facts["target"].astype("Float64").fillna(-1).to_numpy()
    )
    which = pd.Series(says, pairs.index).groupby(pairs["item_id"]).rank(method="first") - 1
    swap = (which == pairs["item_id"].map(swapped)).to_numpy()
    return pairs.assign(
        chosen=pairs["chosen"].where(~swap, pairs["rejected"]),
        rejected=pairs["rejected"].where(~swap, pairs["chosen"]),
    )


def _in_words(items: list[dict]) -> list[tuple]:
    """Pairs of answers' texts, and the option that each rejected one is."""
    return [
        (
            item["item_id"],
            cloze_chat(item),
            _answer(cloze_reply(item["options"][item["gold"]])),
            _answer(cloze_reply(item["options"][other])),
            other,
        )
        for item in items
        for other in _others(item["gold"])
    ]


def _in_letters(items: list[dict], format: str, seed: int) -> list[tuple]:
    """Pairs of answers' letters, and the option that each rejected one is."""
    rng = np.random.default_rng(seed)
    # The alternatives of an item, each a tuple of the options that its prompt shows.
    rows = [
        (item, shown)
        for item in items
        for shown in (
            [(0, 1, 2)]
            if format == "three_option"
            else [tuple(sorted((item["gold"], other))) for other in _others(item["gold"])]
        )
    ]
    table = pd.DataFrame([item for item, _ in rows], columns=GROUPS)
    places = _dealt(table, len(rows[0][1]) if rows else 1, rng)
    pairs = []
    for (item, shown), place in zip(rows, places, strict=True):
        order = [str(option) for option in rng.permutation(shown) if option != item["gold"]]
        order.insert(place, str(item["gold"]))
        order = "".join(order)
        pairs += [
            (
                item["item_id"],
                multiple_choice(item, order),
                _answer(LETTERS[place]),
                _answer(letter_of(other, order)),
                other,
            )
            for other in _others(item["gold"])
            if other in shown
        ]
    return pairs


def _others(gold: int) -> list[int]:
    return [option for option in range(3) if option != gold]


def _answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


GROUPS = ["context_condition", "polarity", "template"]


def _dealt(items: pd.DataFrame, n: int, rng: np.random.Generator) -> np.ndarray:
    """A number below ``n`` for each row: dealt in turn within context and polarity, template
    after template, so that each template is balanced too."""
    table = items[GROUPS].reset_index(drop=True)
    table["shuffle"] = rng.permutation(len(table))
    table = table.sort_values([*GROUPS, "shuffle"])
    return pd.Series(np.arange(len(table)) % n, table.index).sort_index().to_numpy()


def _halves(items: pd.DataFrame, seed: int) -> np.ndarray:
    """0 or 1 for each row, each as often as the other and otherwise at random.

    As often, to within one, in every template of a context and polarity; and in a context and
    polarity among the items whose right answer is the target and among the others.
    """
    rng = np.random.default_rng([seed, 1])
    table = items[GROUPS].reset_index(drop=True)
    table["is_target"] = items["gold"].eq(items["target"]).fillna(False).to_numpy(dtype=bool)
    half = np.zeros(len(table), dtype=int)
    for _, cell in table.groupby(GROUPS[:2]):
        excess = np.zeros(2)  # of ones over zeros, by is_target
        for template in rng.permutation(cell["template"].unique()):
            rows = cell[cell["template"] == template]
            rows = rows.iloc[rng.permutation(len(rows))].sort_values("is_target", kind="stable")
            alternating = (np.arange(len(rows)) + rng.integers(2)) % 2
            gain = np.bincount(rows["is_target"], weights=2 * alternating - 1, minlength=2)
            if np.abs(excess - gain).sum() < np.abs(excess + gain).sum():
                alternating, gain = 1 - alternating, -gain
            half[rows.index] = alternating
            excess += gain
    return half


def manifest(items: pd.DataFrame, pairs: pd.DataFrame, heldout: pd.DataFrame) -> dict:
    """What was made: counts, in which a shortcut would be visible, and the hash of the pairs.

    Parameters
    ----------
    items : item table of the targeted attributes.
    """
    trained = items[items["item_id"].isin(pairs["item_id"])]
    joined = pairs.merge(trained, on="item_id")
    joined["chosen"] = [chosen[0]["content"] for chosen in joined["chosen"]]
    letters = joined["chosen"].isin([*LETTERS]).all()
    # Behind letters, which of them is chosen; in words, which of the options.
    joined["answer"] = joined["chosen"] if letters else [_role(row) for row in joined.itertuples()]

    def counts(*columns: str) -> dict[str, int]:
        sizes = joined.groupby(list(columns)).size()
        return {
            " ".join(key) if isinstance(key, tuple) else key: int(n) for key, n in sizes.items()
        }

    shared = set(trained["template"]) & set(
        items.loc[items["item_id"].isin(heldout["item_id"]), "template"]
    )
    answer = "chosen_letter" if letters else "chosen_answer"
    return {
        "n_pairs": len(pairs),
        "n_items": len(trained),
        "n_templates": int(trained["template"].nunique()),
        "n_heldout_items": len(heldout),
        "n_templates_in_both": len(shared),
        f"pairs_by_{answer}": counts("answer"),
        f"pairs_by_context_and_{answer}": counts("context_condition", "answer"),
        f"pairs_by_polarity_and_{answer}": counts("polarity", "answer"),
        "pairs_by_template": counts("template"),
        # What must not be evaluated after training on it, for studies that take the adapter.
        "items": sorted(trained["item_id"]),
        "sha256": sha256(
            json.dumps(pairs.to_dict("records"), sort_keys=True, default=list).encode()
        ),
    }


def _role(pair) -> str:
    """What a pair's chosen text is among its item's options."""
    texts = [cloze_reply(option) for option in pair.options]
    chosen = texts.index(pair.chosen)
    if chosen == pair.gold:
        return "correct"
    return "unknown" if chosen == pair.unknown else "wrong person"
