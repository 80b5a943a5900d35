"""What chat templates write around an answer, with every template of TRL's wheel."""

import importlib.util
from pathlib import Path

import pytest
import tiny_models
from spillover.core.errors import InputError
from spillover.models.chat import QUESTION, around_answer, opening
from spillover.models.tokens import check_end_of_turn, encode_chat, encode_replies, letter_tokens
from spillover.scoring.generate import Generate

FOLDER = Path(importlib.util.find_spec("trl").origin).parent / "chat_templates"
TEMPLATES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.jinja"))}
every_template = pytest.mark.parametrize(
    "name", TEMPLATES or [pytest.param("", marks=pytest.mark.skip("TRL's wheel has no templates"))]
)

# Where an answer's place is not where the template lets a model go on: what stands before it,
# by the beginning of a template's name.
BEFORE = {
    "deepseek": "Who was it?<\uff5cAssistant\uff5c>",
    "glm4moe": "Who was it?/nothink<|assistant|>\n<think></think>\n",
    "gptoss": "<|start|>assistant<|channel|>final<|message|>",
    "muse_glimmer": "<|start|>assistant to=user<|message|>",
    # A space is joined with the answer behind it.
    "idefics3": "Who was it?<end_of_utterance>\nAssistant: ",
    "smolvlm": "Who was it?<end_of_utterance>\nAssistant: ",
    "llava_next": "[INST] Who was it? [/INST] ",
}
# Where a thought that is closed comes first.
CLOSED = {
    "nemotron_3": "<|im_start|>assistant\n<think></think>",
    "qwen3_5_": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen3_6": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "qwen3_8": "<|im_start|>assistant\n<think>\n\n</think>\n\n",
}
# Refused where the end of the turn is scored: there is nothing behind an answer.
NO_END = {"glm4moe"}
# The prompt ends in an open thought once the model is to think.
OPENED = ("deepseek", "nemotron_3", "qwen3_5_", "qwen3_6", "qwen3_8")


@pytest.fixture
def tokenizer():
    return tiny_models.tokenizer()


def of_family(name, families):
    return next((families[family] for family in families if name.startswith(family)), None)


@every_template
def test_every_template_answers_by_letter(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    letters = [tokenizer.decode([token]).strip() for token in letter_tokens(tokenizer)]
    assert letters == ["A", "B", "C"]


@every_template
def test_an_answers_place_is_where_whole_conversations_have_it(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    before, _ = around_answer(tokenizer, QUESTION)
    if expected := of_family(name, BEFORE):
        assert before.endswith(expected)
        assert before != opening(tokenizer, QUESTION)
    else:
        assert before == opening(tokenizer, QUESTION)
        assert before.endswith(of_family(name, CLOSED) or "")
    prompt = encode_chat(tokenizer, QUESTION)
    assert tokenizer.decode(prompt) == before.removesuffix(" ")


@every_template
def test_every_template_takes_an_answer_in_words(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    before, behind = around_answer(tokenizer, QUESTION)
    prompt, replies = encode_replies(tokenizer, QUESTION, ["The grandson", "Unknown"])
    for text, reply in zip(["The grandson", "Unknown"], replies, strict=True):
        assert tokenizer.decode([*prompt, *reply]) == before + text + behind
    _, spoken = encode_replies(tokenizer, QUESTION, ["The grandson"], end_of_turn=False)
    assert tokenizer.decode(spoken[0]).strip() == "The grandson"
    if name in NO_END:
        with pytest.raises(InputError, match=r"set evaluation.cloze.end_of_turn: false"):
            check_end_of_turn(tokenizer)
    else:
        check_end_of_turn(tokenizer)


@every_template
def test_a_thought_is_open_only_where_it_is_asked_for(tokenizer, name):
    tokenizer.chat_template = TEMPLATES[name]
    assert not Generate(tokenizer, ["012"]).opened
    tokenizer.template_settings = {"enable_thinking": True}
    assert Generate(tokenizer, ["012"]).opened == name.startswith(OPENED)


@pytest.mark.parametrize("name", ["gptoss", "muse_glimmer", "llama3_2", "llama3_1"])
def test_the_day_is_always_the_same(tokenizer, name):
    if name not in TEMPLATES:
        pytest.skip("TRL's wheel has no such template")
    tokenizer.chat_template = TEMPLATES[name]
    before, _ = around_answer(tokenizer, QUESTION)
    assert any(f"ate: {day}" in before for day in ("2024-07-26", "26 Jul 2024"))


def test_a_call_for_the_day_is_answered_in_its_format(tokenizer):
    call = "{{ strftime_now('%A, %d %B %Y, %H:%M') if strftime_now is defined }}"
    tokenizer.chat_template = call + tiny_models.CHATML
    before, _ = around_answer(tokenizer, QUESTION)
    assert before.startswith("Friday, 26 July 2024, 00:00<|im_start|>user")


def test_the_users_arguments_come_before_ours(tokenizer):
    tokenizer.chat_template = "{{ date_string }} {{ effort }} {{ enable_thinking }}" + (
        tiny_models.CHATML
    )
    tokenizer.template_settings = {"effort": "low", "date_string": "today"}
    before, _ = around_answer(tokenizer, QUESTION)
    assert before.startswith("today low False<|im_start|>user")


def test_a_token_that_the_tokenizer_does_not_have_is_left_out(tokenizer):
    tokenizer.chat_template = "{{ bos_token + 'x' }}" + tiny_models.CHATML
    before, _ = around_answer(tokenizer, QUESTION)
    assert before.startswith("x<|im_start|>")


SAID = "message['content']"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "no chat template"),
        ("{{ raise_exception('no way') }}", "cannot write a question and its answer: .*no way"),
        ("{{ nothing.at.all }}", "cannot write a question and its answer: UndefinedError"),
        (tiny_models.CHATML.replace(SAID, f"{SAID} * 2"), "an assistant's answer 2 times"),
        (tiny_models.CHATML.replace(SAID, f"{SAID} | upper"), "an assistant's answer 0 times"),
        ("{{ messages[1:] | map(attribute='content') | join }}", "leaves out .* the user says"),
        (
            tiny_models.CHATML.replace(SAID, f"{SAID} | length }}}} {{{{ {SAID}"),
            "changes the answer 'Unknown', or what stands around it",
        ),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_in_one_line(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=message) as told:
        around_answer(tokenizer, QUESTION, ["Unknown"])
    assert "\n" not in str(told.value)
    if "answer" not in message:
        with pytest.raises(InputError, match=message):
            opening(tokenizer, QUESTION)
