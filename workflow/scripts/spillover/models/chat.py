"""The chat template: what it writes before and behind an assistant's answer."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from spillover.core.errors import InputError

Messages = Sequence[Mapping[str, str]]

# Some templates write today's date into the prompt. The same study must ask the same question
# tomorrow, so it is always this day.
DAY = datetime(2024, 7, 26)
# Arguments for every template, which ignores those that it does not know. An answer is scored
# where it begins, so that no thought may come first.
TEMPLATE_SETTINGS = {
    "date_string": f"{DAY:%d %b %Y}",
    "enable_thinking": False,
    "thinking": False,
}
# Templates ask for the day by calling this, and a function cannot be an argument of theirs.
STRFTIME_NOW = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace('%{d}', '{DAY.strftime('%' + d)}')" for d in "YymdBbAajHIMSp")
    + " }}{% endmacro %}\n"
)
# A conversation to try a template with, and what stands for its answer.
QUESTION = [{"role": "user", "content": "Who was it?"}]
ANSWER = "[[answer]]"


def thinks(tokenizer) -> bool:
    """Whether the user's own arguments for the template let the model think first."""
    own = _own_settings(tokenizer)
    return bool(own.get("enable_thinking") or own.get("thinking"))


def around_answer(tokenizer, messages: Messages, answers: Sequence[str] = ()) -> tuple[str, str]:
    """What the template writes before and behind an assistant's answer to ``messages``.

    Before it stands whatever the turn begins with in a whole conversation, such as a thought
    that is closed already. That may be more than what a template writes for a model to go on
    from, which may end in an open thought.

    Parameters
    ----------
    answers : each is written out, to see that it stands between the two as it is.

    Raises
    ------
    InputError
        If there is no template, it raises an error, leaves out what the user or the assistant
        says, or writes something else around one answer than around another.
    """

    def write(in_parts: bool) -> tuple[str, str]:
        def whole(answer: str) -> str:
            said = [*messages, {"role": "assistant", "content": answer}]
            return _render(tokenizer, said, in_parts)

        before, *behind = whole(ANSWER).split(ANSWER)
        if len(behind) != 1:
            raise InputError(
                f"{tokenizer.name_or_path}: its chat template writes an assistant's answer "
                f"{len(behind)} times; expected once, as it is"
            )
        _check_asked(tokenizer, messages, before)
        for answer in answers:
            if whole(answer) != before + answer + behind[0]:
                raise InputError(
                    f"{tokenizer.name_or_path}: its chat template changes the answer {answer!r}, "
                    "or what stands around it; expected the same text around every answer"
                )
        return before, behind[0]

    return _in_either_form(write)


def opening(tokenizer, messages: Messages) -> str:
    """What the template writes for a model to go on from, be it with a thought.

    Raises
    ------
    InputError
        If there is no template, it raises an error or leaves out what the user says.
    """

    def write(in_parts: bool) -> str:
        text = _render(tokenizer, messages, in_parts, add_generation_prompt=True)
        _check_asked(tokenizer, messages, text)
        return text

    return _in_either_form(write)


def _in_either_form(write: Callable):
    """With contents as texts or, where that fails, as lists of parts.

    Some templates of models that also see images take nothing else.
    """
    try:
        return write(False)
    except InputError as error:
        try:
            return write(True)
        except InputError:
            raise error from None


def _render(tokenizer, messages: Messages, in_parts: bool, **settings) -> str:
    if not tokenizer.chat_template:
        raise InputError(
            f"{tokenizer.name_or_path}: its tokenizer has no chat template; expected an "
            "instruction-tuned model, or scoring: cloze with cloze.prompt: plain and no training"
        )
    if in_parts:
        messages = [
            {**message, "content": [{"type": "text", "text": message["content"]}]}
            for message in messages
        ]
    # A template may write a token that this tokenizer does not have.
    tokens = {name: "" for name in ("bos_token", "eos_token") if getattr(tokenizer, name) is None}
    try:
        template = tokenizer.get_chat_template()
        if "strftime_now" in template:
            template = STRFTIME_NOW + template
        return tokenizer.apply_chat_template(
            messages,
            chat_template=template,
            tokenize=False,
            **(tokens | TEMPLATE_SETTINGS | _own_settings(tokenizer) | settings),
        )
    except Exception as error:  # whatever a template does with what it does not expect
        reason = " ".join(str(error).split())
        raise InputError(
            f"{tokenizer.name_or_path}: its chat template cannot write a question and its answer: "
            f"{type(error).__name__}: {reason}"
        ) from error


def _own_settings(tokenizer) -> Mapping:
    return getattr(tokenizer, "template_settings", {})


def _check_asked(tokenizer, messages: Messages, text: str) -> None:
    # One that does not know parts may write them as they are in Python.
    asked = all(message["content"].strip() in text for message in messages)
    if not asked or "'type': 'text'" in text or '"type": "text"' in text:
        raise InputError(
            f"{tokenizer.name_or_path}: its chat template leaves out or changes what the user says"
        )
