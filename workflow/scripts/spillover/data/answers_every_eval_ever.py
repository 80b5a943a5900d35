"""Per-item samples of Every Eval Ever: ``{uuid}_samples.jsonl``, schema 0.2 and 0.3."""

import json
from collections.abc import Iterable, Iterator

from spillover.data.answers_matching import Record, identity, same_text

KIND = "samples of Every Eval Ever"
KEYS = {"evaluation_id", "sample_id", "interaction_type", "input"}
AGAIN = "that repeat an answer for another metric"
NO_OUTPUT = "that have no single answer (several turns, or an error)"


def records(samples: Iterable[dict]) -> Iterator[Record | str]:
    """Records of the samples; of one that cannot be used, why.

    Three choices were shown in their order; more of them (lm-eval's candidates) only scored.
    ``metadata`` may hold what the schema has no place for: ``attribute`` and ``example_id``,
    ``choice_logprobs`` (JSON list, nats) and ``option_mass``.
    """
    results = {}
    for sample in samples:
        asked, metadata = sample["input"], sample.get("metadata") or {}
        choices = tuple(asked.get("choices") or ())
        output = (sample.get("output") or {}).get("raw")
        # A sample has a row for each metric that it counts in, all with the same answer.
        result = sample.get("evaluation_result_id")
        key = (sample["sample_id"], choices, metadata.get("epoch"), json.dumps(output))
        if results.setdefault(key, result) != result:
            yield AGAIN
            continue
        if not output or sample.get("error"):
            yield NO_OUTPUT
            continue
        final = [a["extracted_value"] for a in sample["answer_attribution"] if a["is_terminal"]]
        answer = (final or output)[-1]
        chosen = _place(answer, choices)
        logp = json.loads(metadata.get("choice_logprobs", "null"))
        attribute, example_id = identity(metadata, sample["sample_id"])
        yield Record(
            attribute,
            example_id,
            asked["raw"],
            choices=choices,
            shown=len(choices) == 3,
            chosen=chosen,
            response=answer if chosen is None else None,
            logp=None if logp is None else tuple(logp),
            mass=float(metadata["option_mass"]) if "option_mass" in metadata else None,
        )


def _place(answer: str, choices: tuple[str, ...]) -> int | None:
    """Place of the choice that an answer is the text or the letter of."""
    texts = [same_text(text) for text in choices]
    if texts.count(same_text(answer)) == 1:
        return texts.index(same_text(answer))
    letters = "ABC"[: len(choices)]
    return letters.index(answer) if answer and answer in letters else None
