"""A study's configuration: what one part of it demands of another.

It stands for the whole, and so may import from every stage; but it is read whenever Snakemake
starts, so torch and its kin stay out.
"""

from collections.abc import Mapping

from spillover.alignment.settings import OBJECTIVE, check_objective, complete
from spillover.core import configuration
from spillover.core.errors import InputError


def check(config: Mapping, schema: Mapping) -> None:
    """Check a configuration against the schema and against itself.

    Raises
    ------
    InputError
        For the first fault: the key, what was expected, what was found.
    """
    configuration.check(config, schema)
    _check_references(config, schema)


def _check_references(config: Mapping, schema: Mapping) -> None:
    """What one part of a configuration demands of another."""
    attributes = config.get("evaluation", {}).get(
        "attributes", schema["properties"]["evaluation"]["properties"]["attributes"]["default"]
    )
    made_here = [name for name, model in config["models"].items() if "source" in model]
    alignments = config.get("alignments", {})
    for name, alignment in alignments.items():
        if made_here and not alignment["target"]:
            raise InputError(
                f"alignments.{name}.target: expected an attribute to align {made_here[0]} for, "
                "found none"
            )
        try:
            check_objective(complete(alignment.get("objective", {}), OBJECTIVE, "objective"))
        except InputError as error:
            raise InputError(f"alignments.{name}.{error}") from error
        for target in alignment["target"]:
            if target not in attributes:
                raise InputError(
                    f"alignments.{name}.target: {target} is not among evaluation.attributes "
                    f"({', '.join(attributes)})"
                )
    seeds = config.get("seeds", schema["properties"]["seeds"]["default"])
    runs = [f"{alignment}/seed{seed}" for alignment in alignments for seed in seeds]
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
