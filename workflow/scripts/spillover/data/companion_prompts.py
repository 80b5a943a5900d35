"""How questions of companion sets are asked in a chat."""

from collections.abc import Mapping

LETTERS = "ABCDEFGHIJ"


def open_question(item: Mapping) -> list[dict[str, str]]:
    """Messages that ask a question, to be answered in words.

    Parameters
    ----------
    item : ``question`` and, where there is a passage, ``context``.
    """
    return _question("Answer the question.", item, [])


def lettered_question(item: Mapping) -> list[dict[str, str]]:
    """Messages that show a question's ``options`` and ask for a letter."""
    options = [f"{letter}. {o}" for letter, o in zip(LETTERS, item["options"], strict=False)]
    return _question("Answer the question with the letter of the right option.", item, options)


def _question(instruction: str, item: Mapping, options: list[str]) -> list[dict[str, str]]:
    passage = [f"Context: {item['context']}"] if item["context"] else []
    lines = [instruction, "", *passage, f"Question: {item['question']}", *options, "Answer:"]
    return [{"role": "user", "content": "\n".join(lines)}]
