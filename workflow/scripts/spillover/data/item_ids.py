"""Lists of items: what an alignment that was made elsewhere was trained on."""

import json
from pathlib import Path

import pandas as pd

from spillover.core.errors import InputError


def read_item_ids(path: str | Path) -> list[str]:
    """Ids of items (``{attribute}:{example_id}``) in a file.

    Parameters
    ----------
    path : text with an id a line; CSV or Parquet with a column ``item_id``, such as a study's
        ``train.parquet``; or the ``manifest.json`` beside that.

    Raises
    ------
    InputError
        If the file is none of these, or has no id.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            ids = pd.read_parquet(path, columns=["item_id"])["item_id"].tolist()
        elif path.suffix == ".json":
            ids = json.loads(path.read_text())["items"]
        else:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
            if "item_id" in lines[0].split(","):
                ids = pd.read_csv(path, dtype=str)["item_id"].tolist()
            else:
                ids = [line.strip() for line in lines if line.strip()]
        strange = next((name for name in ids if ":" not in str(name)), None)
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            f"{path}: expected ids of items, one a line, in a column item_id, or a manifest.json "
            f"with items; could not read it as such ({type(error).__name__}: {error})"
        ) from error
    if strange is not None or not ids:
        raise InputError(
            f"{path}: expected ids of items such as Age:12, found {strange or 'none'!r}"
        )
    return ids
