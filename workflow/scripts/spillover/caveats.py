"""What a study does, or cannot tell, that one may not be aware of.

Read whenever Snakemake starts, as the study is.
"""

import math
from collections.abc import Mapping

from spillover import arms, derived
from spillover.elsewhere import is_trained, made_elsewhere

# Attributes that an intersectional set of BBQ is about.
PARTS = {
    "Race_x_gender": ("Race_ethnicity", "Gender_identity"),
    "Race_x_SES": ("Race_ethnicity", "SES"),
}


def of(config: Mapping) -> list[str]:
    """What a study does, or cannot tell, that one may not be aware of; a line each."""
    alignments = config["alignments"]
    letters = config["evaluation"]["scoring"] != "cloze"
    forms = {True: "by letter", False: "in words"}
    lines = [
        f"alignments.{name}: aligned {forms[asked]}, evaluated {forms[letters]}: a change may be "
        "small because the form does not carry over"
        for name, alignment in alignments.items()
        if is_trained(alignment) and (asked := alignment["pairs"]["format"] != "cloze") != letters
    ]
    lines += [
        f"alignments.{name}.control: {control} differs in {' and '.join(others)} as well, which "
        "their contrast cannot tell apart"
        for name, alignment in alignments.items()
        if (control := alignment["control"]) is not None
        and (others := _other_training(config, name, control))
    ]
    # Arms of a ranking are compared with its reference.
    compared = {alignment["control"] for alignment in alignments.values()}
    compared |= set(arms.arms_of(config)[1:] if "ranking" in config else ())
    lines += [
        f"alignments.{name}: has no control: what of a change comes from training at all, and not "
        "from what it taught, cannot be told"
        for name, alignment in alignments.items()
        if alignment["control"] is None and name not in compared
    ]
    lines += [
        f"alignments.{name}: {'what it is made of ' * bool(derived.sources(alignments[name]))}was "
        "made elsewhere, and trained_on does not say on which items: "
        "leakage is not known; of its targets all items are evaluated, seen in training or not"
        for name in unknown_leakage(config)
    ]
    lines += [
        f"evaluation.attributes: {attribute} asks about {' and '.join(shared)} too, which {name} "
        "targets, and counts among what it does not target"
        for name, alignment in alignments.items()
        for attribute in config["evaluation"]["attributes"]
        if (shared := [part for part in PARTS.get(attribute, ()) if part in alignment["target"]])
        and attribute not in alignment["target"]
    ]
    return lines + _too_few_blocks(config)


def _too_few_blocks(config: Mapping) -> list[str]:
    """Whether no cell of a matrix could hold after correction, however large (Holm)."""
    statistics, evaluation = config["statistics"], config["evaluation"]
    shown, n_blocks = arms.shown(config), evaluation["blocks_per_attribute"]
    if len(shown) < 2 or n_blocks is None or statistics["correction"] != "holm":
        return []
    n_cells = sum(
        attribute not in config["alignments"][name]["target"]
        for name in shown
        for attribute in evaluation["attributes"]
    )
    # A template a block at most; with as many templates there are 2^(templates - 1) flips.
    needed = math.floor(math.log2(max(n_cells, 1) / statistics["alpha"])) + 2
    if n_blocks >= needed:
        return []
    return [
        "evaluation.blocks_per_attribute: too few for a cell of matrix.tsv to hold: with "
        f"{n_cells} untargeted cells {needed} are the least, found {n_blocks}; what is pooled is "
        "not bound by that"
    ]


def unknown_leakage(config: Mapping) -> list[str]:
    """Alignments whose evaluation may hold items that they were trained on."""
    return [
        name
        for name in config["alignments"]
        if any(
            made_elsewhere(of) and of["target"] and not of["trained_on"]
            for of in (config["alignments"][origin] for origin in derived.origins(config, name))
        )
    ]


def _other_training(config: Mapping, name: str, other: str) -> list[str]:
    """What two alignments differ in beside what is preferred."""
    alignment, control = (config["alignments"][which] for which in (name, other))
    ways = [
        {key: value for key, value in of.get("derive", {}).items() if key not in ("from", "merge")}
        for of in (alignment, control)
    ]
    if ways[0] != ways[1]:
        return ["derive"]
    if ways[0]:
        origins = (derived.origins(config, which) for which in (name, other))
        found = [_other_training(config, *pair) for pair in zip(*origins, strict=False)]
        return list(dict.fromkeys(part for parts in found for part in parts))
    parts = [key for key in ("objective", "lora", "training") if alignment[key] != control[key]]
    same_form = alignment["pairs"]["format"] == control["pairs"]["format"]
    return parts if same_form else ["pairs.format", *parts]
