"""A study's configuration: what one part of it demands of another.

It stands for the whole, and so may import from every stage; but it is read whenever Snakemake
starts, so torch and its kin stay out.
"""

import difflib
from collections.abc import Collection, Mapping

from spillover import arms, derived, other_attributes
from spillover.alignment.settings import check_objective
from spillover.core.errors import InputError
from spillover.data import own_companions
from spillover.data.companions import SETS
from spillover.elsewhere import KINDS, base_of, is_trained, made_elsewhere

# What decides which items an alignment is trained and evaluated on.
ITEMS = ("target", "exclude_groups", "split", "trained_on")
# All that an alignment is made of.
MADE_OF = (*ITEMS, "pairs", "objective", "lora", "training", *KINDS, "derive")
# Attributes together, as tables have them.
POOLED = ("all", "targeted", "untargeted")
# Settings that only an alignment has that is trained here.
TRAINED_HERE = ("split", "pairs", "objective", "lora", "training")


def check_kinds(config: Mapping) -> None:
    """Check that an alignment is trained here, made elsewhere or derived, and one of them only.

    Parameters
    ----------
    config : as given, without defaults: what one kind has, the other must not say.

    Raises
    ------
    InputError
        For the first fault.
    """
    for name, alignment in config.get("alignments", {}).items():
        key = f"alignments.{name}"
        kinds = [kind for kind in (*KINDS, "derive") if kind in alignment]
        if len(kinds) > 1:
            raise InputError(f"{key}: expected one of {', '.join(kinds)}, found both")
        if "derive" in kinds:
            derived.check_way(name, alignment)
        elif "target" not in alignment:
            raise InputError(f"{key}: expected the key 'target', found {sorted(alignment)}")
        if "derive" in kinds and alignment.get("trained_on") is not None:
            raise InputError(f"{key}.trained_on: a derived alignment was trained on no items")
        if not kinds and alignment.get("trained_on") is not None:
            raise InputError(
                f"{key}.trained_on: goes with adapter or checkpoint; what is trained here holds "
                "out items by split"
            )
        for setting in TRAINED_HERE:
            if kinds and setting in alignment:
                raise InputError(
                    f"{key}.{setting}: an alignment that is trained here has it, and this one is "
                    f"{'derived' if 'derive' in kinds else f'made elsewhere ({kinds[0]})'}; remove "
                    "one of the two"
                )


def forms(config: Mapping) -> dict:
    """In which forms a study asks models, for what a tokenizer must be able to do.

    Returns
    -------
    ``scoring``, ``cloze`` (its settings), ``pairs`` (formats of what is trained on here),
    ``texts`` (whether companion sets have plain texts) and ``letters`` (how many their questions
    need; 0 for none).
    """
    evaluation = config["evaluation"]
    trained = list(filter(is_trained, config["alignments"].values()))
    # Prompts of other attributes are asked in words, whatever the form of the pairs.
    companions = config["companions"]
    sets = [own_companions.set_of(name, companions["own"]) for name in companions["sets"]]
    words = {"cloze" for alignment in trained if other_attributes.of(alignment)}
    return {
        "scoring": evaluation["scoring"],
        "cloze": evaluation["cloze"],
        "pairs": sorted({alignment["pairs"]["format"] for alignment in trained} | words),
        "texts": any(not of.chat for of in sets),
        "letters": max((of.letters for of in sets), default=0),
    }


def pairs_format(config: Mapping, alignment: str) -> str:
    """Form of the pairs that an alignment is diagnosed on: as trained, or as evaluated."""
    origin = config["alignments"][derived.origins(config, alignment)[0]]
    if is_trained(origin):
        return origin["pairs"]["format"]
    return "cloze" if config["evaluation"]["scoring"] == "cloze" else "three_option"


def chat_template(config: Mapping, name: str) -> dict:
    """Arguments of the chat template of a model, or of a checkpoint beside it: its base's."""
    return config["models"][base_of(name)].get("chat_template", {})


def check(config: Mapping, attributes: Collection[str]) -> None:
    """Check that the parts of a configuration fit each other.

    Parameters
    ----------
    config : as the schema allows it (:func:`spillover.core.configuration.check`), with its
        defaults filled in.
    attributes : those that BBQ has.

    Raises
    ------
    InputError
        For the first fault: the key, what was expected, what was found.
    """
    _check_attributes(config, attributes)
    _check_checkpoints(config)
    _check_alignments(config)
    _check_elsewhere(config)
    _check_controls(config)
    _check_predictions(config)
    _check_contrasts(config)
    arms.check(config)
    _check_names(config)
    _check_companions(config)


def _check_companions(config: Mapping) -> None:
    """Companion sets are published ones, or the study's own."""
    companions = config["companions"]
    for name, own in companions["own"].items():
        key = f"companions.own.{name}"
        if name in SETS:
            raise InputError(f"{key}: a published set has this name; expected another")
        own_companions.check(key, own)
    known = [*SETS, *companions["own"]]
    for name in companions["sets"]:
        _check_known("companions.sets", name, known)


def _check_known(key: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        nearest = difflib.get_close_matches(name, known, 1, cutoff=0)[0]
        raise InputError(
            f"{key}: expected of {', '.join(known)}; found {name!r}, the nearest is {nearest!r}"
        )


def _check_names(config: Mapping) -> None:
    """Figures are named by alignment and model, and each is to have a name of its own."""
    found: dict[str, tuple[str, str]] = {}
    for name in config["alignments"]:
        for model in config["models"]:
            first = found.setdefault(f"{name}_{model}", (name, model))
            if first != (name, model):
                raise InputError(
                    f"alignments.{name}: its figures of {model} and those of {first[0]} of "
                    f"{first[1]} have one name; expected another"
                )


def _check_checkpoints(config: Mapping) -> None:
    shares = config["evaluation"]["checkpoints"]
    if shares and not any("source" in model for model in config["models"].values()):
        raise InputError(
            "evaluation.checkpoints: expected a model that is trained here; answers made elsewhere "
            "have none on the way"
        )
    if shares != sorted(shares) or any(round(share, 2) != share for share in shares):
        raise InputError(
            "evaluation.checkpoints: expected rising shares of training with two digits, such as "
            f"[0.25, 0.5], found {shares}"
        )


def _check_alignments(config: Mapping) -> None:
    attributes = config["evaluation"]["attributes"]
    made_here = [name for name, model in config["models"].items() if "source" in model]
    for name, alignment in config["alignments"].items():
        given = made_elsewhere(alignment) or "derive" in alignment
        if made_here and not alignment["target"] and not given:
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
        other_attributes.check(name, alignment, attributes)


def _check_attributes(config: Mapping, published: Collection[str]) -> None:
    """Attributes are BBQ's, or further sets of the study's."""
    sets = config["bbq"]["sets"]
    for name in sets:
        if name in published or name in POOLED:
            which = "BBQ has a set of this name" if name in published else "tables use this name"
            raise InputError(f"bbq.sets.{name}: {which}; expected another")
    known = [*published, *sets]
    named = {"evaluation.attributes": config["evaluation"]["attributes"]} | {
        f"alignments.{name}.target": alignment["target"]
        for name, alignment in config["alignments"].items()
    }
    for name, alignment in config["alignments"].items():
        for term in other_attributes.TERMS:
            key = f"alignments.{name}.objective.{term}.attributes"
            named[key] = other_attributes.of_term(alignment, term)
    for key, attributes in named.items():
        for attribute in attributes:
            _check_known(key, attribute, known)


def _check_elsewhere(config: Mapping) -> None:
    """What is made elsewhere has a source for each model, and one for all seeds or one each."""
    made_here = [name for name, model in config["models"].items() if "source" in model]
    seeds = config["seeds"]
    for name, alignment in config["alignments"].items():
        kind = made_elsewhere(alignment)
        if kind is None:
            continue
        key = f"alignments.{name}.{kind}"
        if set(alignment[kind]) != set(made_here):
            raise InputError(
                f"{key}: expected a source for each of the study's models "
                f"({', '.join(made_here) or 'none has a source'}), found "
                f"{', '.join(alignment[kind])}; other models are another study"
            )
        for model, source in alignment[kind].items():
            if isinstance(source, list) and len(source) != len(seeds):
                raise InputError(
                    f"{key}.{model}: expected one source, or {len(seeds)}, one for each of the "
                    f"seeds; found {len(source)}"
                )


def _check_controls(config: Mapping) -> None:
    """A control is compared on the same items, after another training on the same items."""
    alignments = config["alignments"]
    # What answers made elsewhere come from, their files know.
    made_here = any("source" in model for model in config["models"].values())
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
        _check_same_items(config, name, control)
        same = all(alignments[control].get(part) == alignment.get(part) for part in MADE_OF)
        if same and made_here:
            raise InputError(
                f"{key}: expected an alignment that differs in what is to be ruled out, found "
                f"{control} made in the same way (pairs: {{preferences: shuffled}} makes a control)"
            )


def _check_same_items(config: Mapping, name: str, control: str) -> None:
    """A control was aligned on the same items, and so it is evaluated on the same."""
    alignments = config["alignments"]
    key = f"alignments.{name}.control"
    # A derived one is evaluated on the items of what it was made of.
    of, to = (
        [alignments[origin] for origin in derived.origins(config, which)]
        for which in (name, control)
    )
    if len(of) > 1 or len(to) > 1:
        held = [sorted(map(str, map(_held_out, origins))) for origins in (of, to)]
        if held[0] != held[1]:
            raise InputError(
                f"{key}: expected an alignment with the same items; {control} and {name} are made "
                "of alignments with others"
            )
        return
    of, to = of[0], to[0]
    if (made_elsewhere(of) is None) != (made_elsewhere(to) is None):
        raise InputError(
            f"{key}: expected an alignment with the same items; one of {name} and {control} "
            "is trained here and the other made elsewhere"
        )
    for part, expected in _held_out(of).items():
        found = _held_out(to)[part]
        if found != expected:
            raise InputError(
                f"{key}: expected an alignment with the same items, found {control} with "
                f"{part}: {_yaml(found)} instead of {_yaml(expected)} (or control: null)"
            )


def _held_out(alignment: Mapping) -> dict:
    """What decides on which items an alignment is trained and evaluated."""
    parts = {part: alignment[part] for part in ITEMS}
    parts["target"] = sorted(parts["target"])
    parts["attributes of anchor and replay"] = sorted(other_attributes.of(alignment))
    return parts | {"pairs.max_items": alignment["pairs"]["max_items"]}


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
