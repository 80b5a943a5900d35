"""Alignments as arms of a ranking: which they are, and the attributes that they are judged by.

Read whenever Snakemake starts, as the study is.
"""

from collections.abc import Mapping

from spillover import derived, other_attributes
from spillover.core.errors import InputError


def shown(config: Mapping) -> list[str]:
    """Alignments that are no mere control of another."""
    alignments = config["alignments"]
    controls = {alignment["control"] for alignment in alignments.values()}
    return [name for name in alignments if alignments[name]["control"] or name not in controls]


def arms_of(config: Mapping) -> list[str]:
    """The arms: those that are named, or else all alignments that are no mere control."""
    reference = config["ranking"]["reference"]
    return list(dict.fromkeys([reference, *config["ranking"].get("arms", shown(config))]))


def judged(config: Mapping) -> list[str]:
    """Attributes that no arm was trained on, neither as a target nor beside one."""
    touched = set()
    for arm in arms_of(config):
        for origin in derived.origins(config, arm):
            alignment = config["alignments"][origin]
            touched |= {*alignment["target"], *other_attributes.of(alignment)}
    return [name for name in config["evaluation"]["attributes"] if name not in touched]


def _splits(config: Mapping, arm: str) -> list[dict]:
    """What decides on the items of the reference's targets that an arm holds out."""
    targets = set(config["alignments"][config["ranking"]["reference"]]["target"])
    origins = [config["alignments"][name] for name in derived.origins(config, arm)]
    return [
        {"split": dict(of["split"]), "exclude_groups": of["exclude_groups"]}
        for of in origins
        if targets & set(of["target"])
    ]


def check(config: Mapping) -> None:
    """Check that the arms are there, gain on the same targets, and can be judged.

    Raises
    ------
    InputError
        For the first fault.
    """
    if "ranking" not in config:
        return
    alignments, reference = config["alignments"], config["ranking"]["reference"]
    for key, names in (("reference", [reference]), ("arms", config["ranking"].get("arms", []))):
        for name in names:
            if name not in alignments:
                raise InputError(
                    f"ranking.{key}: expected of {', '.join(alignments) or 'none'}; found {name!r}"
                )
    targets = alignments[reference]["target"]
    arms = arms_of(config)
    for arm in arms:
        if not set(targets) <= set(alignments[arm]["target"]):
            unnamed = "" if "arms" in config["ranking"] else "; name the arms, or all are"
            raise InputError(
                f"ranking.arms: {arm} does not target {', '.join(targets)}, as {reference} does"
                f"{unnamed}"
            )
    splits = {arm: _splits(config, arm) for arm in arms}
    for arm, split in splits.items():
        if any(each["split"]["by"] != "template" for each in split):
            raise InputError(
                f"ranking: {arm} has split.by: item; expected template, so that arms have held-out "
                "items in common"
            )
        strange = [each for each in split if each != splits[reference][0]]
        if strange:
            raise InputError(
                f"ranking: expected arms with the split and exclude_groups of {reference} where "
                f"they have its targets; {arm} has others"
            )
    if len(arms) < 2:
        raise InputError("ranking.arms: expected at least one beside the reference, found none")
    if not judged(config):
        raise InputError(
            "ranking: every one of evaluation.attributes was trained on by an arm; none is left to "
            "judge them by"
        )
