"""A study's configuration: what one part of it demands of another.

It stands for the whole, and so may import from every stage; but it is read whenever Snakemake
starts, so torch and its kin stay out.
"""

from collections.abc import Mapping

from spillover.alignment.settings import check_objective
from spillover.core.errors import InputError

# What decides which items an alignment is trained and evaluated on.
ITEMS = ("target", "exclude_groups", "split")


def check(config: Mapping) -> None:
    """Check that the parts of a configuration fit each other.

    Parameters
    ----------
    config : as the schema allows it (:func:`spillover.core.configuration.check`), with its
        defaults filled in.

    Raises
    ------
    InputError
        For the first fault: the key, what was expected, what was found.
    """
    _check_alignments(config)
    _check_controls(config["alignments"])
    _check_predictions(config)
    _check_contrasts(config)


def notes(config: Mapping) -> list[str]:
    """What a study does, or cannot tell, that one may not be aware of; a line each."""
    alignments = config["alignments"]
    letters = config["evaluation"]["scoring"] != "cloze"
    forms = {True: "by letter", False: "in words"}
    lines = [
        f"alignments.{name}: aligned {forms[asked]}, evaluated {forms[letters]}: a change may be "
        "small because the form does not carry over"
        for name, alignment in alignments.items()
        if (asked := alignment["pairs"]["format"] != "cloze") != letters
    ]
    lines += [
        f"alignments.{name}.control: {control} differs in {' and '.join(others)} as well, which "
        "their contrast cannot tell apart"
        for name, alignment in alignments.items()
        if (control := alignment["control"]) is not None
        and (others := _other_training(alignment, alignments[control]))
    ]
    controls = {alignment["control"] for alignment in alignments.values()}
    lines += [
        f"alignments.{name}: has no control: what of a change comes from training at all, and not "
        "from what it taught, cannot be told"
        for name, alignment in alignments.items()
        if alignment["control"] is None and name not in controls
    ]
    return lines


def _other_training(alignment: Mapping, control: Mapping) -> list[str]:
    """What two trainings differ in beside what is preferred."""
    parts = [key for key in ("objective", "lora", "training") if alignment[key] != control[key]]
    same_form = alignment["pairs"]["format"] == control["pairs"]["format"]
    return parts if same_form else ["pairs.format", *parts]


def _check_alignments(config: Mapping) -> None:
    attributes = config["evaluation"]["attributes"]
    made_here = [name for name, model in config["models"].items() if "source" in model]
    for name, alignment in config["alignments"].items():
        if made_here and not alignment["target"]:
            raise InputError(
                f"alignments.{name}.target: expected an attribute to align {made_here[0]} for, "
                "found none"
            )
        try:
            check_objective(alignment["objective"])
        except InputError as error:
            raise InputError(f"alignments.{name}.{error}") from error
        for target in alignment["target"]:
            if target not in attributes:
                raise InputError(
                    f"alignments.{name}.target: {target} is not among evaluation.attributes "
                    f"({', '.join(attributes)})"
                )


def _check_controls(alignments: Mapping) -> None:
    """A control is compared on the same items, after training on the same items."""
    for name, alignment in alignments.items():
        control = alignment["control"]
        if control is None:
            continue
        key = f"alignments.{name}.control"
        others = sorted(set(alignments) - {name})
        if control == name or control not in alignments:
            found = "itself" if control == name else f"{control!r}"
            raise InputError(
                f"{key}: expected another alignment ({', '.join(others) or 'there is none'}), "
                f"found {found}"
            )
        for part in ITEMS:
            expected, found = alignment[part], alignments[control][part]
            if part == "target":
                expected, found = sorted(expected), sorted(found)
            if found != expected:
                raise InputError(
                    f"{key}: expected an alignment with the same items, found {control} with "
                    f"{part}: {_yaml(found)} instead of {_yaml(expected)}"
                )
        expected, found = (alignments[which]["pairs"]["max_items"] for which in (name, control))
        if found != expected:
            raise InputError(
                f"{key}: expected an alignment with the same items, found {control} with "
                f"pairs.max_items: {_yaml(found)} instead of {_yaml(expected)}"
            )


def _check_predictions(config: Mapping) -> None:
    """Answers made elsewhere come with a file for every run."""
    runs = [
        f"{alignment}/seed{seed}" for alignment in config["alignments"] for seed in config["seeds"]
    ]
    for name, model in config["models"].items():
        if "predictions" not in model:
            continue
        given = set(model["predictions"]) - {"base"}
        if given != set(runs):
            raise InputError(
                f"models.{name}.predictions: expected a file for base and for each of "
                f"{', '.join(runs) or 'the runs (the study has no alignments)'}; "
                f"found {', '.join(sorted(given)) or 'base only'}"
            )


def _check_contrasts(config: Mapping) -> None:
    """Two models are contrasted on the same items, asked in the same option orders."""
    models, evaluation = config["models"], config["evaluation"]
    one_order = evaluation["scoring"] == "cloze" or evaluation["option_orders"] == "given"
    for name, contrast in config["contrasts"].items():
        key = f"contrasts.{name}"
        if name in config["alignments"]:
            raise InputError(f"{key}: an alignment has this name too, and contrasts.tsv has both")
        for side in ("of", "minus"):
            if contrast[side] not in models:
                raise InputError(
                    f"{key}.{side}: expected a model ({', '.join(models)}), found "
                    f"{contrast[side]!r}"
                )
        of, minus = contrast["of"], contrast["minus"]
        if of == minus:
            raise InputError(f"{key}: expected two models, found {of} twice")
        elsewhere = [side for side in (of, minus) if "predictions" in models[side]]
        if len(elsewhere) == 1 and not one_order:
            raise InputError(
                f"{key}: expected two models asked the same; {elsewhere[0]} was answered "
                "elsewhere, once an item, the other is asked in option orders "
                f"{evaluation['option_orders']}; set evaluation.option_orders: given"
            )


def _yaml(value: object) -> str:
    return "null" if value is None else str(value)
