"""Attributes beside the targets, of which an objective takes prompts: anchor and replay.

They are split as the targets are, so that they too are evaluated on held-out items. Read whenever
Snakemake starts, as the study is.
"""

from collections.abc import Mapping

from spillover.core.errors import InputError

# Parts of an objective that take prompts of attributes.
TERMS = ("anchor", "replay")


def of_term(alignment: Mapping, term: str) -> list[str]:
    """Attributes of an alignment's ``anchor`` or ``replay``; none if it has none."""
    settings = alignment["objective"][term] or {}
    return list(settings.get("attributes") or [])


def of(alignment: Mapping) -> list[str]:
    """Attributes that the objective of an alignment takes prompts of, each once."""
    return list(dict.fromkeys(name for term in TERMS for name in of_term(alignment, term)))


def texts(alignment: Mapping) -> str | None:
    """The user's file of texts that an alignment is anchored on; None if there is none."""
    return (alignment["objective"]["anchor"] or {}).get("texts")


def check(name: str, alignment: Mapping, evaluated: list[str]) -> None:
    """Check that an objective takes prompts of attributes that are evaluated and no targets.

    Raises
    ------
    InputError
        For the first that is another.
    """
    for term in TERMS:
        key = f"alignments.{name}.objective.{term}.attributes"
        for attribute in of_term(alignment, term):
            if attribute not in evaluated:
                raise InputError(
                    f"{key}: {attribute} is not among evaluation.attributes "
                    f"({', '.join(evaluated)})"
                )
            if attribute in alignment["target"]:
                raise InputError(f"{key}: {attribute} is a target; expected another attribute")
