"""Alignments derived from others of the study, without training: what of, and what they inherit.

At another strength, with an adapter cut to fewer ranks, or with several adapters merged. Read
whenever Snakemake starts, as the study is.
"""

from collections.abc import Mapping

from spillover.core.errors import InputError
from spillover.elsewhere import made_elsewhere

# What is done, and the settings that go with it.
WAYS = {
    "strength": ("from",),
    "truncate_rank": ("from",),
    "merge": ("method", "weights", "density"),
}
# What decides on which items an alignment is evaluated.
INHERITED = ("target", "exclude_groups", "split")


def sources(alignment: Mapping) -> list[str]:
    """Alignments that one is made of; none if it is not derived."""
    derive = alignment.get("derive", {})
    return derive.get("merge", [derive["from"]] if "from" in derive else [])


def strength(alignment: Mapping) -> float | None:
    """Strength at which an alignment's logits are those of its source; None if not so derived."""
    return alignment.get("derive", {}).get("strength")


def has_own_adapter(alignment: Mapping) -> bool:
    """Whether an alignment is derived by making an adapter."""
    return bool(sources(alignment)) and strength(alignment) is None


def with_adapter(config: Mapping, name: str) -> str:
    """The alignment whose adapter one computes with: its own, or its source's."""
    alignment = config["alignments"][name]
    return name if strength(alignment) is None else alignment["derive"]["from"]


def origins(config: Mapping, name: str) -> list[str]:
    """The alignments, not derived themselves, that one is made of in the end; or it itself."""
    found = [
        origin
        for source in sources(config["alignments"][name])
        for origin in origins(config, source)
    ]
    return list(dict.fromkeys(found)) or [name]


def check_way(name: str, alignment: Mapping) -> None:
    """Check that an alignment is derived in one way, with what goes with it.

    Parameters
    ----------
    name, alignment : as given, without defaults.

    Raises
    ------
    InputError
        For the first fault.
    """
    derive, key = alignment["derive"], f"alignments.{name}.derive"
    ways = [way for way in WAYS if way in derive]
    if len(ways) != 1:
        raise InputError(
            f"{key}: expected one of {', '.join(WAYS)}, found {' and '.join(ways) or 'none'}"
        )
    strange = sorted(set(derive) - {ways[0], *WAYS[ways[0]]})
    if strange:
        raise InputError(f"{key}.{strange[0]}: does not go with {ways[0]}")
    needed = WAYS[ways[0]][0]
    if needed not in derive:
        raise InputError(f"{key}: {ways[0]} goes with the key {needed!r}, found none")
    weights = derive.get("weights")
    if weights is not None and len(weights) != len(derive["merge"]):
        raise InputError(
            f"{key}.weights: expected {len(derive['merge'])}, one for each of merge, "
            f"found {len(weights)}"
        )
    if "density" in derive and derive["method"] not in ("ties", "dare_ties"):
        raise InputError(f"{key}.density: goes with ties and dare_ties, not {derive['method']}")
    if len(derive.get("merge", [])) == 1 and derive.get("density", 1) < 1:
        raise InputError(f"{key}.density: of a single adapter nothing is dropped; remove it")
    for setting in INHERITED:
        if setting in alignment:
            raise InputError(
                f"alignments.{name}.{setting}: a derived alignment takes it over from what it is "
                "made of; remove it"
            )


def inherit(config: dict) -> None:
    """Give derived alignments the targets, groups and split of what they are made of.

    Of several with other targets, all targets; their ``exclude_groups`` and ``split`` are then
    those of the first (what is held out is what each has held out).

    Parameters
    ----------
    config : with its defaults; it is changed.

    Raises
    ------
    InputError
        If an alignment is made of one that is not there, has no adapter, or is made of it.
    """
    for name in config["alignments"]:
        _inherit(config, name, [])
    for name, alignment in config["alignments"].items():
        if "merge" in alignment.get("derive", {}):
            _check_shapes(config, name)


def _check_shapes(config: Mapping, name: str) -> None:
    """Check that adapters that are merged are alike, as far as they are made here."""
    derive, key = config["alignments"][name]["derive"], f"alignments.{name}.derive.merge"
    shapes = {source: _shape(config, source) for source in derive["merge"]}
    known = {source: shape for source, shape in shapes.items() if shape is not None}
    parts = ["modules"] if derive["method"] == "cat" else ["modules", "rank"]
    for part in parts:
        found = {source: shape[part] for source, shape in known.items()}
        if len(set(map(str, found.values()))) > 1:
            listed = ", ".join(f"{source}: {value}" for source, value in found.items())
            hint = "; cat takes them" if part == "rank" else ""
            raise InputError(
                f"{key}: {derive['method']} expects adapters of the same {part}, found {listed}"
                f"{hint}"
            )


def _shape(config: Mapping, name: str) -> dict | None:
    """Rank and modules of an alignment's adapter; None if only its files know."""
    alignment = config["alignments"][name]
    if made_elsewhere(alignment):
        return None
    if not sources(alignment):
        return {"rank": alignment["lora"]["r"], "modules": alignment["lora"]["target_modules"]}
    parts = [_shape(config, source) for source in sources(alignment)]
    if None in parts:
        return None
    ranks = [part["rank"] for part in parts]
    derive = alignment["derive"]
    if "truncate_rank" in derive:
        return parts[0] | {"rank": min(ranks[0], derive["truncate_rank"])}
    return parts[0] | {"rank": sum(ranks) if derive["method"] == "cat" else ranks[0]}


def _inherit(config: dict, name: str, path: list[str]) -> None:
    alignments = config["alignments"]
    alignment = alignments[name]
    if not sources(alignment) or "target" in alignment:
        return
    key = f"alignments.{name}.derive.{'merge' if 'merge' in alignment['derive'] else 'from'}"
    for source in sources(alignment):
        if source in (name, *path):
            raise InputError(f"{key}: {name} would be made of itself, by way of {source}")
        if source not in alignments:
            others = ", ".join(sorted(set(alignments) - {name})) or "there is none"
            raise InputError(f"{key}: expected another alignment ({others}), found {source!r}")
        of = alignments[source]
        if strength(of) is not None or made_elsewhere(of) == "checkpoint":
            why = "a strength" if strength(of) is not None else "a whole model"
            raise InputError(f"{key}: expected an alignment with an adapter; {source} is {why}")
        _inherit(config, source, [*path, name])
    first = alignments[sources(alignment)[0]]
    alignment |= {key: first[key] for key in INHERITED}
    targets = [t for source in sources(alignment) for t in alignments[source]["target"]]
    alignment["target"] = list(dict.fromkeys(targets))
