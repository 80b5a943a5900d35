"""Alignments that were made elsewhere: which they are, and where their files come from and go.

Read whenever Snakemake starts, as the study is.
"""

from collections.abc import Mapping

# A PEFT adapter, or a whole aligned model beside its base.
KINDS = ("adapter", "checkpoint")


def made_elsewhere(alignment: Mapping) -> str | None:
    """How an alignment was made elsewhere: ``adapter``, ``checkpoint``; None if it is not."""
    return next((kind for kind in KINDS if kind in alignment), None)


def is_trained(alignment: Mapping) -> bool:
    """Whether an alignment has pairs of its own; that of answers made elsewhere may have none."""
    elsewhere = made_elsewhere(alignment) is not None or "derive" in alignment
    return not elsewhere and bool(alignment["target"])


def source_of(config: Mapping, model: str, run: str) -> dict:
    """Where the adapter or the checkpoint of a run (``{alignment}/seed{seed}``) comes from."""
    name, _, seed = run.partition("/seed")
    alignment = config["alignments"][name]
    given = alignment[made_elsewhere(alignment)][model]
    return given[config["seeds"].index(int(seed))] if isinstance(given, list) else given


def checkpoint(config: Mapping, model: str, run: str) -> str | None:
    """Name under ``resources/models`` of a run's own model; None if it has none.

    It is ``{model}@{alignment}``, with the seed behind it where each seed has a source.
    """
    name, _, seed = run.partition("/seed")
    given = config["alignments"].get(name, {}).get("checkpoint")
    if given is None:
        return None
    return f"{model}@{name}" + (f"-seed{seed}" if isinstance(given[model], list) else "")


def base_of(name: str) -> str:
    """The model that a name under ``resources/models`` is, or is a checkpoint of."""
    return name.partition("@")[0]


def checkpoints(config: Mapping) -> dict[str, tuple[str, str]]:
    """Every such name, with the model and the (first) run that it is of."""
    found = {}
    for name, alignment in config["alignments"].items():
        for model in alignment.get("checkpoint", {}):
            for seed in config["seeds"]:
                run = f"{name}/seed{seed}"
                found.setdefault(checkpoint(config, model, run), (model, run))
    return found


def fetched(config: Mapping, name: str) -> tuple[str, dict]:
    """What is fetched as ``resources/models/{name}``: its key in the configuration, its source."""
    model, run = checkpoints(config).get(name, (name, None))
    if run is None:
        return f"models.{model}.source", config["models"][model]["source"]
    key = f"alignments.{run.partition('/')[0]}.checkpoint.{model}"
    return key, source_of(config, model, run)
