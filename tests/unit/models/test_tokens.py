"""What is trained and what is scored are the same tokens."""

import pandas as pd
import pytest
import tiny_models
from made_items import make_items
from spillover.alignment.encoding import encode
from spillover.core.errors import InputError
from spillover.data import prompts
from spillover.data.pairs import build_pairs
from spillover.models.load import load_tokenizer
from spillover.models.tokens import encode_chat, encode_replies
from spillover.scoring.cloze import Cloze

CHAT = [{"role": "user", "content": "Who was it?"}]


@pytest.fixture(params=["llama", "smollm2"])
def tokenizer(request, tiny_folder):
    name = request.param
    return load_tokenizer(
        tiny_folder(name) if name == "llama" else request.getfixturevalue("smollm2")
    )


def test_pairs_and_evaluation_of_an_item_are_the_same_tokens(tokenizer, bbq_items):
    items = pd.concat([make_items(6), bbq_items("Disability_status").head(200)])
    pairs = encode(build_pairs(items, "cloze"), tokenizer, 1024)
    mode = Cloze(tokenizer)
    for item in items.to_dict("records"):
        spans = mode.requests([item])
        scored = {
            option: (list(span.tokens[: span.start]), list(span.tokens[span.start :]))
            for option, span in enumerate(spans)
        }
        trained = [pair for pair in pairs if pair["item_id"] == item["item_id"]]
        assert len(trained) == 2
        others = []
        for pair in trained:
            assert (pair["prompt_ids"], pair["chosen_ids"]) == scored[item["gold"]]
            others.append((pair["prompt_ids"], pair["rejected_ids"]))
        assert others == [scored[option] for option in range(3) if option != item["gold"]]


def test_a_reply_ends_with_its_turn_or_with_its_text(tokenizer):
    prompt, (whole,) = encode_replies(tokenizer, CHAT, ["The grandfather"])
    again, (text,) = encode_replies(tokenizer, CHAT, ["The grandfather"], end_of_turn=False)
    assert prompt == again == encode_chat(tokenizer, CHAT)
    assert tokenizer.decode(text) == "The grandfather"
    assert whole[: len(text)] == text
    assert tokenizer.decode(whole[len(text) :]) == "<|im_end|>\n"
    assert whole[len(text)] == tokenizer.eos_token_id


def test_a_template_that_rewrites_the_prompt_is_refused(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("llama"))
    tokenizer.chat_template = tiny_models.CHATML.replace(
        "<|im_start|>{{ message['role'] }}", "<|im_start|>{{ messages | length }}"
    )
    with pytest.raises(InputError, match="renders a prompt otherwise once an answer follows"):
        encode_replies(tokenizer, CHAT, ["The grandfather"])


def test_an_answer_that_is_joined_with_what_follows_is_told(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("llama"))
    # No special token behind the answer: "grandfather" is one token, which ends in the template.
    tokenizer.chat_template = "{% for m in messages[1:] %}{{ m['content'] }}father{% endfor %}"
    with pytest.raises(InputError, match=r"end_of_turn: .* joins the end of the answer"):
        encode_replies(tokenizer, CHAT, ["The grand"], end_of_turn=False)


def test_spaces_around_an_answer_are_not_scored():
    assert prompts.cloze_reply(" The man \n") == "The man"
