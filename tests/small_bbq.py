"""Small tables of BBQ's shape, built in sight, and answerers whose scores are known."""

import numpy as np
import pandas as pd

SETTINGS = {
    "alpha": 0.05,
    "equivalence_margin": 0.02,
    "resamples": 2000,
    "correction": "holm",
    "seed": 0,
}
LAYOUT = [("neg", "ambig"), ("neg", "disambig"), ("nonneg", "ambig"), ("nonneg", "disambig")]
CYCLIC = ("012", "120", "201")


def make_items(attribute="Age", blocks=(2,) * 8, label_type="label"):
    """Items of one attribute: ``blocks[t]`` blocks of four in template t.

    As in BBQ the target flips between the two polarities, and the disambiguating context agrees
    with the bias in every other block: an even number of blocks makes a template balanced.
    """
    rows = []
    for template, n_blocks in enumerate(blocks):
        for nth in range(n_blocks):
            block = len(rows) // 4
            unknown = block % 3
            people = [(unknown + 1) % 3, (unknown + 2) % 3]
            for polarity, context in LAYOUT:
                target, other = people if polarity == "neg" else people[::-1]
                agrees = nth % 2 == 0
                gold = unknown if context == "ambig" else (target if agrees else other)
                groups = [None] * 3
                groups[unknown], groups[people[0]], groups[people[1]] = "unknown", "old", "nonOld"
                rows.append(
                    {
                        "item_id": f"{attribute}:{len(rows)}",
                        "attribute": attribute,
                        "example_id": len(rows),
                        "block": block,
                        "template": f"{attribute}:{template + 1}",
                        "polarity": polarity,
                        "context_condition": context,
                        "context": "Two people met.",
                        "question": "Who was it?",
                        "options": ["one", "two", "three"],
                        "gold": gold,
                        "unknown": unknown,
                        "target": target,
                        "label_type": label_type,
                        "groups": groups,
                    }
                )
    return pd.DataFrame(rows).astype({"target": "Int64"})


def make_predictions(items, predicted, orders=("012",)):
    """The same answer in every order, or one list of answers an order."""
    by_order = predicted if isinstance(predicted, dict) else dict.fromkeys(orders, predicted)
    return pd.concat(
        [
            pd.DataFrame(
                {
                    "item_id": items["item_id"].to_numpy(),
                    "order": order,
                    "predicted": pd.array(np.asarray(answers, dtype=object), dtype="Int64"),
                }
            )
            for order, answers in by_order.items()
        ],
        ignore_index=True,
    )


def other_person(items):
    return 3 - items["unknown"] - items["target"]


def oracle(name, items):
    """Predictions, in three option orders, of an answerer whose scores are known."""
    if name == "position":  # order[0] is the option on the first place
        return make_predictions(items, {order: [int(order[0])] * len(items) for order in CYCLIC})
    if name == "random":
        rng = np.random.default_rng(1)
        return make_predictions(items, {o: rng.integers(0, 3, len(items)) for o in CYCLIC})
    answers = {
        "perfect": items["gold"],
        "biased": items["target"],
        "antibiased": other_person(items),
        "unknown": items["unknown"],
        "unparsable": [None] * len(items),
    }[name]
    return make_predictions(items, answers, CYCLIC)


def with_wrong(items, wrong):
    """Right answers but on the given rows, where a wrong one (that names somebody) is given."""
    predicted = items["gold"].copy()
    predicted[wrong] = (items["gold"][wrong] + 1) % 3
    return make_predictions(items, predicted)


def several(seed=0):
    items = pd.concat(
        [make_items("Age", (3, 1) * 10), make_items("SES", (2,) * 25)], ignore_index=True
    )
    rng = np.random.default_rng(seed)
    runs = [
        make_predictions(items, {order: rng.integers(0, 3, len(items)) for order in CYCLIC})
        for _ in range(3)
    ]
    return items, runs[0], {0: runs[1], 1: runs[2]}
