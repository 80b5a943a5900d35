"""Files and folders of the user's that a study names: they are there, and no rule writes to them.

Read whenever Snakemake starts, as the study is.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from spillover import other_attributes
from spillover.core.errors import InputError
from spillover.elsewhere import made_elsewhere

# Folders that rules write to: Snakemake removes what is in the place of an output.
WRITTEN = (
    "resources/bbq",
    "resources/companions",
    "resources/models",
    "resources/model_configs",
    ".snakemake",
)


def check_paths(config: Mapping) -> None:
    """Check that what is the user's is there, and lies where no rule writes.

    Paths are relative to the working directory.

    Raises
    ------
    InputError
        For the first that is not.
    """
    written = [*WRITTEN, f"results/{config['study']}"]
    for key, (path, is_there, expected) in _paths(config).items():
        place = Path(path).resolve()
        for folder in written:
            if Path(folder).resolve() in (place, *place.parents):
                raise InputError(
                    f"{key}: {path} lies in {folder}, where the workflow writes, and would be "
                    "deleted; move it elsewhere"
                )
        if not is_there(Path(path)):
            raise InputError(f"{key}: expected {expected}, found none ({path})")


def _paths(config: Mapping) -> dict[str, tuple[str, Callable[[Path], bool], str]]:
    """Every path that is the user's, by its key, with what it must be."""
    folder, file = (Path.is_dir, "a folder"), (Path.is_file, "a file")
    found = {}
    if config["bbq"]["type"] == "path":
        found["bbq.path"] = (config["bbq"]["path"], *folder)
    for name, parts in config["bbq"]["sets"].items():
        found |= {f"bbq.sets.{name}.{part}": (path, *file) for part, path in parts.items()}
    for name, own in config["companions"]["own"].items():
        if "path" in own:
            found[f"companions.own.{name}.path"] = (own["path"], *file)
    for name, model in config["models"].items():
        key = f"models.{name}"
        if model.get("source", {}).get("type") == "path":
            found[f"{key}.source.path"] = (model["source"]["path"], *folder)
        for run, path in model.get("predictions", {}).items():
            found[f"{key}.predictions.{run}"] = (path, *file)
    for name, alignment in config["alignments"].items():
        kind = made_elsewhere(alignment)
        for model, given in alignment.get(kind, {}).items():
            key = f"alignments.{name}.{kind}.{model}"
            each = given if isinstance(given, list) else [given]
            for number, source in enumerate(each):
                place = f"{key}.{number}.path" if isinstance(given, list) else f"{key}.path"
                if source["type"] == "path":
                    found[place] = (source["path"], *folder)
        if texts := other_attributes.texts(alignment):
            found[f"alignments.{name}.objective.anchor.texts"] = (texts, *file)
        if alignment["trained_on"]:
            found[f"alignments.{name}.trained_on"] = (alignment["trained_on"], *file)
    return found
