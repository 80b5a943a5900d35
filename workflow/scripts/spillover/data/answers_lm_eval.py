"""lm-eval's samples: ``samples_*.jsonl`` of its bbq tasks, written with ``--log_samples``."""

from collections.abc import Iterable, Iterator

from spillover.data.answers_matching import Record, identity

KIND = "lm-eval's samples"
KEYS = {"doc", "arguments", "filtered_resps"}


def records(samples: Iterable[dict]) -> Iterator[Record]:
    """Records of ``bbq`` and its like (candidates scored) and ``bbq_generate`` (free text).

    Neither shows options. As the task does, the candidate with the highest log-probability is
    chosen, the first of several.
    """
    for sample in samples:
        doc, answers = sample["doc"], sample["filtered_resps"]
        attribute, example_id = identity(doc)
        asked = f"{doc['context']}\n{doc['question']}"
        arguments = sample["arguments"]
        if isinstance(arguments, dict):  # before 0.4.3 a list of lists
            arguments = [tuple(values.values()) for values in arguments.values()]
        candidates = [continuation for _, continuation in arguments]
        if not isinstance(candidates[0], str):  # how to generate, not what to score
            answer = answers[0] if isinstance(answers[0], str) else answers[0][0]
            yield Record(attribute, example_id, asked, response=answer)
            continue
        logp = tuple(float(value) for value, _ in answers)
        yield Record(
            attribute,
            example_id,
            asked,
            choices=tuple(candidates),
            chosen=logp.index(max(logp)),
            logp=logp,
        )
