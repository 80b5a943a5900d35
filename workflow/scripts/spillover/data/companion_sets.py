"""Readers of the companion sets: from their published files to rows of items.

Each takes the content of its files and returns a table with the columns that
:func:`spillover.data.companions.prepare` describes, but for ``item_id``; its index is an item's
number among all that were published.
"""

import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping

import pandas as pd

# Of running text: sentences of a page are joined until a text has as many, about those of GAP's.
CHARACTERS_A_TEXT = 500
STEREOSET_LABELS = ["stereotype", "anti-stereotype", "unrelated"]
PRONOUNS = {"he", "him", "his", "himself", "she", "her", "hers", "herself"}
FEMININE = {"she", "her", "hers", "herself"}


def bold(*files: bytes) -> pd.DataFrame:
    """BOLD (Dhamala et al. 2021): sentences of Wikipedia, joined page by page to running texts."""
    # Some pages stand in several groups.
    rows: dict[tuple[str, str], dict] = {}
    for file in files:
        for group, pages in json.loads(file).items():
            for page, sentences in pages.items():
                for text in _paragraphs(sentences):
                    row = _row(cluster=page, group=group, options=[text], labels=["text"])
                    rows.setdefault((page, text), row)
    return _table(enumerate(rows.values()))


def gap_texts(*files: bytes) -> pd.DataFrame:
    """GAP (Webster et al. 2018): its snippets of Wikipedia, as running text."""
    return _table(
        (number, _row(cluster=row["URL"], options=[row["Text"].strip()], labels=["text"]))
        for number, row in enumerate(_gap_rows(files))
    )


def gap(*files: bytes) -> pd.DataFrame:
    """GAP: to which of two names a pronoun refers; those that refer to neither are left out."""
    rows = []
    for number, row in enumerate(_gap_rows(files)):
        # Neither name is the pronoun's in 490 of 4,454; both never.
        if row["A-coref"] == row["B-coref"]:
            continue
        pronoun, start = row["Pronoun"], int(row["Pronoun-offset"])
        before, behind = row["Text"][:start], row["Text"][start + len(pronoun) :]
        # A text has several pronouns: the one that is asked about is marked.
        marked = f"{before}*{pronoun}*{behind}".strip()
        context = f"{marked}\n\n*{pronoun}* refers to"
        rows.append(
            (
                number,
                _row(
                    cluster=row["URL"],
                    condition="feminine" if pronoun.lower() in FEMININE else "masculine",
                    context=context,
                    options=[row["A"].strip(), row["B"].strip()],
                    labels=["A", "B"],
                    gold=0 if row["A-coref"] == "TRUE" else 1,
                ),
            )
        )
    return _table(rows)


def stereoset(data: bytes) -> pd.DataFrame:
    """StereoSet (Nadeem et al. 2021), development set: three sentences, alone or behind one."""
    rows = []
    for task, items in sorted(json.loads(data)["data"].items()):
        for item in items:
            by_label = {s["gold_label"]: s["sentence"].strip() for s in item["sentences"]}
            rows.append(
                _row(
                    cluster=item["target"],
                    group=item["bias_type"],
                    condition=task,
                    context=item["context"] if task == "intersentence" else "",
                    options=[by_label[label] for label in STEREOSET_LABELS],
                    labels=STEREOSET_LABELS,
                )
            )
    return _table(enumerate(rows))


def crows_pairs(data: bytes) -> pd.DataFrame:
    """CrowS-Pairs (Nangia et al. 2020): the more and the less stereotyping of two sentences."""
    rows = []
    for row in pd.read_csv(io.BytesIO(data), index_col=0).to_dict("records"):
        rows.append(
            _row(
                group=row["bias_type"],
                condition=row["stereo_antistereo"],
                options=[row["sent_more"], row["sent_less"]],
                labels=["more", "less"],
            )
        )
    return _table(enumerate(rows))


def winobias(*files: bytes) -> pd.DataFrame:
    """WinoBias (Zhao et al. 2018): each sentence with a pronoun as stereotypes have it, and not.

    Parameters
    ----------
    files : of each part the pro- and the anti-stereotyped sentences; then the occupations, those
        of men and of women.

    Sentences of which the two versions differ in more than their pronouns, or that name no two
    occupations, are left out: as published, a few have errors.
    """
    *parts, male, female = files
    occupations = (male + b"\n" + female).decode().split("\n")
    occupations = [name.strip().lower() for name in occupations if name.strip()]
    rows, number = [], 0
    for pro, anti in zip(parts[::2], parts[1::2], strict=True):
        for twins in zip(_lines(pro), _lines(anti), strict=True):
            found = [_marked(sentence, occupations) for sentence in twins]
            number += 1
            if None in found or found[0]["twin"] != found[1]["twin"]:
                continue
            for at, (condition, item) in enumerate(zip(("pro", "anti"), found, strict=True)):
                row = _row(
                    block=number,
                    cluster=" ".join(sorted(item["options"])),
                    condition=condition,
                    context=_refers(item["sentence"], item["pronoun"]),
                    options=item["options"],
                    labels=["marked", "other"],
                    gold=0,
                )
                rows.append((2 * (number - 1) + at, row))
    return _table(rows)


def winogender(sentences: bytes, statistics: bytes) -> pd.DataFrame:
    """Winogender (Rudinger et al. 2018): an occupation, a participant and one of three pronouns.

    ``condition`` is ``pro`` where the gender of the pronoun goes with who it refers to: where
    it refers to the occupation, that of most who have it (U.S. statistics); where it refers to
    the participant, the other. ``anti`` otherwise, ``neutral`` for *they*.
    """
    women = pd.read_csv(io.BytesIO(statistics), sep="\t").set_index("occupation")["bls_pct_female"]
    rows = []
    for row in pd.read_csv(io.BytesIO(sentences), sep="\t").to_dict("records"):
        occupation, participant, answer, gender, _ = row["sentid"].split(".")
        (pronoun,) = re.findall(r"\b(?:he|him|his|she|her|hers|they|them|their)\b", row["sentence"])
        of_most = "female" if women[occupation] > 50 else "male"
        alike = (gender == of_most) == (answer == "0")
        rows.append(
            _row(
                block=f"{occupation}.{participant}.{answer}",
                cluster=occupation,
                condition="neutral" if gender == "neutral" else "pro" if alike else "anti",
                context=_refers(row["sentence"], pronoun),
                options=[occupation, participant],
                labels=["occupation", "participant"],
                gold=int(answer),
            )
        )
    return _table(enumerate(rows))


def multiple_choice(data: bytes) -> pd.DataFrame:
    """Questions with lettered options in one text: OpenBookQA, CommonsenseQA, PIQA, MMLU.

    Those that have two options alike, or whose question has one of them in it, are left out.
    """
    rows = []
    for number, row in enumerate(_json_lines(data)):
        options = re.split(r"(?:^|\n)[A-Z]\. ", "\n" + row["options"].strip("\n"))
        options = [text.strip() for text in options[1:]]
        letters = re.findall(r"(?:^|\n)([A-Z])\. ", row["options"])
        gold = ord(row["answer"].strip()[0]) - ord("A")
        whole = letters == [chr(ord("A") + place) for place in range(len(letters))]
        if not whole or len(set(options)) < len(options) or not all(options):
            continue
        if row["answer"].strip()[2:].strip() != options[gold]:
            continue
        rows.append(
            (
                number,
                _row(
                    cluster=row["question"].strip(),
                    question=row["question"].strip(),
                    options=options,
                    labels=letters,
                    gold=gold,
                ),
            )
        )
    return _table(rows)


def boolq(data: bytes) -> pd.DataFrame:
    """BoolQ (Clark et al. 2019): yes or no, by a passage."""
    rows = [
        _row(
            cluster=row["title"],
            context=row["passage"].strip(),
            question=f"{row['question'].strip().capitalize()}?",
            options=["Yes", "No"],
            labels=["A", "B"],
            gold=["True", "False"].index(row["answer"]),
        )
        for row in _json_lines(data)
    ]
    return _table(enumerate(rows))


def _row(options: list[str], labels: list[str], **columns: object) -> dict:
    empty = {"block": None, "cluster": None, "group": "", "condition": "", "context": ""}
    return empty | {"question": "", "options": options, "labels": labels, "gold": None} | columns


def _table(rows: Iterable[tuple[int, Mapping]]) -> pd.DataFrame:
    """A table by item number; an item without a block or a cluster is one of its own."""
    numbers, rows = zip(*rows, strict=True)
    table = pd.DataFrame(list(rows), index=list(numbers))
    own = pd.Series(table.index, index=table.index).astype(str)
    for column in ("block", "cluster"):
        table[column] = table[column].where(table[column].notna(), own).astype(str)
    return table


def _paragraphs(sentences: Iterable[str]) -> Iterator[str]:
    """Consecutive sentences, joined until a text is long enough."""
    text = ""
    for sentence in sentences:
        text = f"{text} {sentence.strip()}".strip()
        if len(text) >= CHARACTERS_A_TEXT:
            yield text
            text = ""
    if text:
        yield text


def _gap_rows(files: Iterable[bytes]) -> Iterator[dict]:
    for file in files:
        table = pd.read_csv(io.BytesIO(file), sep="\t", dtype=str, quoting=3)
        yield from table.to_dict("records")


def _lines(data: bytes) -> list[str]:
    return [line for line in data.decode().splitlines() if line.strip()]


def _json_lines(data: bytes) -> Iterator[dict]:
    return (json.loads(line) for line in _lines(data))


def _refers(sentence: str, pronoun: str) -> str:
    """Behind which a pronoun's antecedent is named: lm-eval's ``winogender``, quotes and all."""
    return f"{sentence} \u2018{pronoun.capitalize()}\u2019 refers to the"


def _marked(line: str, occupations: list[str]) -> dict | None:
    """A sentence of WinoBias, its first pronoun, and the marked occupation and the other."""
    text = re.sub(r"^\d+ ", "", line.strip())
    marks = re.findall(r"\[(.*?)\]", text)
    pronouns = [mark for mark in marks if mark.lower() in PRONOUNS]
    entities = [mark for mark in marks if mark.lower() not in PRONOUNS]
    sentence = text.replace("[", "").replace("]", "")
    named = [name for name in occupations if re.search(rf"\b{name}\b", sentence.lower())]
    if not pronouns or len(entities) != 1 or len(named) != 2:
        return None
    (marked,) = [name for name in named if name in entities[0].lower()] or [None]
    if marked is None:
        return None
    other = next(name for name in named if name != marked)
    shown = ["CEO" if name == "ceo" else name for name in (marked, other)]
    twin = re.sub(r"\[(\w+)\]", lambda m: "_" if m[1].lower() in PRONOUNS else m[0], text)
    return {"sentence": sentence, "pronoun": pronouns[0], "options": shown, "twin": twin}
