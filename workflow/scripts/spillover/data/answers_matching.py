"""From an evaluator's record of an answer to the item that was asked and the option chosen."""

import math
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd

from spillover.core.errors import InputError
from spillover.data.bbq import UNKNOWN_PHRASES

# The published sets: an answer to one that the study does not evaluate is left aside, a name
# that is none of these is a mistake.
SETS = (
    *("Age", "Disability_status", "Gender_identity", "Nationality", "Physical_appearance"),
    *("Race_ethnicity", "Religion", "SES", "Sexual_orientation", "Race_x_SES", "Race_x_gender"),
)

NO_ITEM = "of items that the study does not have"
OTHER_TEXT = "whose question is not that of the item they name"
SEVERAL = "that fit several items alike"
OTHER_OPTIONS = "whose choices are not the item's options"


@dataclass(frozen=True)
class Record:
    """An answer as another program recorded it.

    Attributes
    ----------
    attribute, example_id : the item, as far as the file names it.
    asked : text that has the item's context and question in it.
    choices : texts that were chosen from.
    shown : whether these were on the page, in this order; else they were only scored.
    chosen : place among the choices; None if no answer was recognised.
    response : free text to find the answer in, where nothing was chosen.
    logp : log-probability (nats) of each of the choices.
    mass : probability of all of them together, if it is not the sum over ``logp``.
    """

    attribute: str | None
    example_id: int | None
    asked: str
    choices: tuple[str, ...] = ()
    shown: bool = False
    chosen: int | None = None
    response: str | None = None
    logp: tuple[float, ...] | None = None
    mass: float | None = None


def identity(
    metadata: Mapping, sample_id: str | int | None = None
) -> tuple[str | None, int | None]:
    """Attribute and ``example_id`` that a sample names in its metadata, or else in its id.

    An id may be a set's name and a number, as inspect_evals' ``Age_00012``.
    """
    attribute = metadata.get("attribute", metadata.get("category"))
    number = metadata.get("example_id", metadata.get("source_id"))
    named = re.fullmatch(rf"(?:({'|'.join(SETS)})[_:])?(\d+)", str(sample_id))
    if named and number is None:
        attribute, number = attribute or named[1], named[2]
    return attribute, None if number is None else int(number)


class Matcher:
    """Finds the item and the options of a record, by ``example_id`` and by text.

    Parameters
    ----------
    items : the study's items.
    parse : see :func:`spillover.data.answers.read`.
    """

    def __init__(self, items: pd.DataFrame, parse: Callable | None = None):
        self.parse = parse
        self.attributes = sorted({*SETS, *items["attribute"]})
        self.by_id, self.by_context = {}, defaultdict(list)
        for item in items.to_dict("records"):
            self.by_id[item["attribute"], item["example_id"]] = item
            self.by_context[_plain(item["context"])].append(item)

    def row(self, record: Record, where: str) -> dict | str:
        """The record's row of predictions, or why it is left aside.

        Raises
        ------
        InputError
            If its attribute is none, or two of its item's options read alike.
        """
        item = self._item(record, where)
        if isinstance(item, str):
            return item
        options = [_option(item, text, where) for text in record.choices]
        order = "".join(map(str, options)) if record.shown else "012"
        if None in options or sorted(order) != ["0", "1", "2"]:
            return OTHER_OPTIONS
        row = {"item_id": item["item_id"], "order": order, "predicted": None}
        if record.chosen is not None:
            row["predicted"] = options[record.chosen]
        elif record.response and self.parse:
            behind = order if record.shown else ""
            row["predicted"] = self.parse(
                record.response, item["options"], item["unknown"], behind
            ).option
        if record.logp and set(options) == {0, 1, 2}:
            # the unknown option has that of the phrase which decides for it
            for option, logp in zip(options, record.logp, strict=True):
                name = f"logp_{option}"
                row[name] = max(logp, row.get(name, -math.inf))
            total = math.fsum(map(math.exp, record.logp))
            row["option_mass"] = total if record.mass is None else record.mass
        return row

    def _item(self, record: Record, where: str) -> dict | str:
        asked = _plain(record.asked)
        if record.attribute not in (None, *self.attributes):
            raise InputError(
                f"{where}: expected an attribute, {', '.join(self.attributes)}; found "
                f"{record.attribute!r}"
            )
        if record.attribute is not None and record.example_id is not None:
            item = self.by_id.get((record.attribute, record.example_id))
            if item is None:
                return NO_ITEM
            texts = (_plain(item["context"]), _plain(item["question"]))
            return item if all(text in asked for text in texts) else OTHER_TEXT
        # Lines, with and without what introduces them: "Question: ", "Q: ".
        lines = [_plain(line) for line in record.asked.splitlines()]
        pieces = {*lines, *(line.partition(": ")[2] for line in lines)}
        fitting = [
            item
            for piece in pieces
            for item in self.by_context.get(piece, ())
            if _plain(item["question"]) in pieces
            and record.attribute in (None, item["attribute"])
            and None not in [_option(item, text, where) for text in record.choices]
        ]
        if len(fitting) > 1:
            fitting = [i for i in fitting if i["example_id"] == record.example_id] or fitting
        if not fitting:
            return NO_ITEM
        return fitting[0] if len(fitting) == 1 else SEVERAL


def _plain(text: str) -> str:
    return " ".join(text.split())


def same_text(text: str) -> str:
    """What two spellings of an answer's text have in common."""
    return _plain(text).casefold().rstrip(" .")


_UNKNOWN = {same_text(phrase) for phrase in UNKNOWN_PHRASES}


def _option(item: Mapping, text: str, where: str) -> int | None:
    """The item's option that has this text; any phrase for *unknown* is the unknown one's."""
    text = same_text(text)
    fitting = [i for i, option in enumerate(item["options"]) if same_text(option) == text]
    if len(fitting) > 1:
        raise InputError(f"{where}: {text!r} is the text of two options of {item['item_id']}")
    if not fitting and text in _UNKNOWN:
        fitting = [item["unknown"]]
    return int(fitting[0]) if fitting else None
