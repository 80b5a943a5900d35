"""Generated answers of models that think first."""

import pytest
import tiny_models
from made_items import make_items
from spillover.models.chat import QUESTION
from spillover.models.tokens import encode_chat, letter_tokens
from spillover.scoring.engine import Engine
from spillover.scoring.generate import Generate
from spillover.scoring.score import score

SPECIAL = ["<think>", "</think>", "<|channel|>", "<|message|>"]


@pytest.fixture
def tokenizer():
    tokenizer = tiny_models.tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


@pytest.fixture
def answer(tokenizer, llama, monkeypatch):
    """The rows of an item to which the model says something."""
    item = make_items(1).head(1)

    def rows(text):
        tokens = tokenizer.encode(text, add_special_tokens=False)
        monkeypatch.setattr(
            Engine, "generate", lambda self, blocks, *rest: [[tokens for _ in b] for b in blocks]
        )
        return score(item, llama[0], tokenizer, scoring="generate").iloc[0]

    return rows


@pytest.mark.parametrize(
    ("text", "predicted"),
    [
        ("B", 1),
        ("<think>A or C, say A.</think>\n\nB", 1),
        ("<|channel|>analysis<|message|>A.<|channel|>final<|message|>C", 2),
    ],
)
def test_what_follows_a_thought_is_read(answer, text, predicted):
    row = answer(text)
    assert row["predicted"] == predicted
    assert row["response"] == text


def test_a_thought_that_does_not_end_is_unparsed(answer):
    assert answer("<think>It must be A.")["predicted"] is not answer("A")["predicted"]
    assert str(answer("<think>It must be A.")["predicted"]) == "<NA>"


def test_special_tokens_alone_are_left_out_of_a_response(answer):
    row = answer("B<|message|>")
    assert (row["response"], row["predicted"]) == ("B", 1)


THINKS = tiny_models.CHATML + (
    "{% if add_generation_prompt %}{{ '<think>' if enable_thinking else '<think></think>' }}"
    "{% endif %}"
)


def test_a_model_thinks_only_if_the_user_says_so(tokenizer, answer):
    tokenizer.chat_template = THINKS
    mode = Generate(tokenizer, ["012"])
    (prompt,) = mode.requests(make_items(1).head(1).to_dict("records"))
    assert tokenizer.decode(prompt.context).endswith("<|im_start|>assistant\n")
    assert answer("It must be A.")["predicted"] == 0
    tokenizer.template_settings = {"enable_thinking": True}
    mode = Generate(tokenizer, ["012"])
    (prompt,) = mode.requests(make_items(1).head(1).to_dict("records"))
    assert tokenizer.decode(prompt.context).endswith("<|im_start|>assistant\n<think>")
    assert str(answer("It must be A.")["predicted"]) == "<NA>"
    assert answer("It must be A.</think>B")["predicted"] == 1
    # Letters, and what is trained, stand where an answer does all the same.
    assert tokenizer.decode(encode_chat(tokenizer, QUESTION)).endswith("assistant\n")
    assert len(letter_tokens(tokenizer)) == 3
