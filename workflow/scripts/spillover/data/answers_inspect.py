"""Inspect's evaluation logs, as JSON or ``.eval``: multiple choice over items of BBQ."""

import json
import re
import struct
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from spillover.core.errors import InputError
from spillover.data.answers_matching import Record, identity

KIND = "an Inspect log"
FAILED = "that failed with an error"
LETTER_ALONE = "that are a letter without the choices it stands for"
ZSTANDARD = 93  # in a zip file


def archived(path: Path) -> Iterator[Record | str]:
    """Records of a ``.eval`` file, read one sample at a time.

    Raises
    ------
    InputError
        If there are no samples in the file.
    """
    with zipfile.ZipFile(path) as archive:
        members = [i for i in archive.infolist() if re.match(r"samples/.*\.json$", i.filename)]
        if not members:
            raise InputError(f"{path}: expected an Inspect log with samples, found none in it")
        yield from records(json.loads(_content(archive, member)) for member in members)


def records(samples: Iterable[dict]) -> Iterator[Record | str]:
    """Records of a log's samples; of one that cannot be used, why."""
    for sample in samples:
        scores, output = sample.get("scores") or {}, sample["output"]
        if sample.get("error") or not scores:
            yield FAILED
            continue
        if "choice" not in scores and len(scores) > 1:
            raise ValueError(f"several scorers, none of them choice: {', '.join(scores)}")
        score = scores.get("choice") or next(iter(scores.values()))
        answer = score.get("answer")
        if answer is None:
            answer = output["choices"][0]["message"]["content"]
        choices = sample.get("choices") or ()
        letters = "ABCDEFGHIJ"[: len(choices)]
        if not choices and re.fullmatch("[A-J]", answer):
            yield LETTER_ALONE
            continue
        chosen = letters.index(answer) if answer and answer in letters else None
        # multiple_choice(shuffle=…) logs everything as if it had not, but for this text.
        explanation = score.get("explanation") or ""
        if chosen is not None and explanation.startswith("Choices were shuffled"):
            text = choices[chosen]
            choices = re.findall(r"^[A-J]\) (.*)$", explanation, re.MULTILINE)
            chosen = choices.index(text)
        attribute, example_id = identity(sample.get("metadata") or {}, sample["id"])
        yield Record(
            attribute,
            example_id,
            _asked(sample["input"]),
            choices=tuple(choices),
            shown=bool(choices),
            chosen=chosen,
            response=None if chosen is not None else answer,
            logp=None if chosen is None else _logp(output, letters, letters[chosen]),
        )


def _asked(content: str | list) -> str:
    """Text of a sample's input, which may be messages, and those lists of parts."""
    if isinstance(content, str):
        return content
    return "\n".join(_asked(part.get("content") or part.get("text") or "") for part in content)


def _logp(output: dict, letters: str, answer: str) -> tuple[float, ...] | None:
    """Log-probabilities of the letters where the answer's stands; None if one is not there."""
    logged = output["choices"][0].get("logprobs") or {}
    for token in reversed(logged.get("content") or []):
        if _letter(token["token"]) == answer:
            # the likelier of two spellings of a letter comes first, and is to stay
            likeliest = reversed(token.get("top_logprobs") or [])
            found = {_letter(other["token"]): other["logprob"] for other in likeliest}
            return tuple(found[x] for x in letters) if set(letters) <= found.keys() else None
    return None


def _letter(token: str) -> str:
    """A token's text without the blank before it, which tokenizers spell in their own ways."""
    return token.strip(" \N{LATIN CAPITAL LETTER G WITH DOT ABOVE}\N{LOWER ONE EIGHTH BLOCK}")


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """A member's content; Python reads Zstandard, in which Inspect writes, from 3.14 on."""
    if member.compress_type != ZSTANDARD:
        return archive.read(member)
    archive.fp.seek(member.header_offset)
    name, extra = struct.unpack("<26xHH", archive.fp.read(30))
    archive.fp.seek(name + extra, 1)
    compressed = pa.BufferReader(archive.fp.read(member.compress_size))
    return pa.CompressedInputStream(compressed, "zstd").read()
