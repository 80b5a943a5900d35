"""What is trained and what is scored are the same tokens."""

import json

import pandas as pd
import pytest
import tiny_models
from made_items import make_items
from spillover.alignment.encoding import encode
from spillover.core.errors import InputError
from spillover.data import prompts
from spillover.data.pairs import build_pairs
from spillover.models.load import load_model, load_tokenizer
from spillover.models.tokens import (
    encode_chat,
    encode_continuations,
    encode_replies,
    ends_of_response,
    stop_tokens,
)
from spillover.scoring.cloze import Cloze
from tokenizers.processors import TemplateProcessing

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


def test_an_ordinary_templates_tokens_are_those_of_transformers(tokenizer, bbq_items):
    def encoded(messages, **settings):
        return tokenizer.apply_chat_template(messages, return_dict=False, **settings)

    for item in bbq_items("Age").head(40).to_dict("records"):
        for messages in (prompts.cloze_chat(item), prompts.multiple_choice(item, "120")):
            prompt, replies = encode_replies(tokenizer, messages, ["A", *item["options"]])
            asked = encoded(messages, add_generation_prompt=True)
            assert prompt == encode_chat(tokenizer, messages) == asked
            for text, reply in zip(["A", *item["options"]], replies, strict=True):
                said = {"role": "assistant", "content": text}
                assert [*prompt, *reply] == encoded([*messages, said])


def test_a_reply_ends_with_its_turn_or_with_its_text(tokenizer):
    prompt, (whole,) = encode_replies(tokenizer, CHAT, ["The grandfather"])
    again, (text,) = encode_replies(tokenizer, CHAT, ["The grandfather"], end_of_turn=False)
    assert prompt == again == encode_chat(tokenizer, CHAT)
    assert tokenizer.decode(text) == "The grandfather"
    assert whole[: len(text)] == text
    assert tokenizer.decode(whole[len(text) :]) == "<|im_end|>\n"
    assert whole[len(text)] == tokenizer.eos_token_id


def test_an_answer_that_is_joined_with_what_follows_is_told(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("llama"))
    # No special token behind the answer: "grandfather" is one token, which ends in the template.
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}father{% endfor %}"
    with pytest.raises(InputError, match=r"end_of_turn: .* joins the end of the answer"):
        encode_replies(tokenizer, CHAT, ["The grand"], end_of_turn=False)


def test_spaces_around_an_answer_are_not_scored():
    assert prompts.cloze_reply(" The man \n") == "The man"


NO_END = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }} {{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
)


def test_pairs_of_a_template_without_an_end_of_turn_are_what_is_scored_without_one(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("llama"))
    tokenizer.chat_template = NO_END
    (item,) = make_items(1).head(1).to_dict("records")
    spans = Cloze(tokenizer, end_of_turn=False).requests([item])
    pairs = encode(build_pairs(make_items(1).head(1), "cloze"), tokenizer, 1024)
    trained = {(*pair["prompt_ids"], *pair[side]) for pair in pairs for side in SIDES}
    assert trained == {span.tokens for span in spans}
    with pytest.raises(InputError, match=r"set evaluation\.cloze\.end_of_turn: false"):
        Cloze(tokenizer)


SIDES = ("chosen_ids", "rejected_ids")
PLAIN = "Q: Who?\nA:"
TEXTS = [" The grandfather", " The grandson", " Can't be determined"]


def test_continuations_are_what_lm_eval_scores(tokenizer):
    """Both encoded together, and split where the prompt alone would end."""
    prompt, texts = encode_continuations(tokenizer, PLAIN, TEXTS)
    assert prompt == tokenizer.encode(PLAIN)
    assert texts == [tokenizer.encode(PLAIN + text)[len(prompt) :] for text in TEXTS]


def test_tokens_put_behind_a_text_are_not_scored_and_those_before_it_are_kept():
    tokenizer = tiny_models.tokenizer()
    expected = encode_continuations(tokenizer, PLAIN, TEXTS)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A <|im_end|> <|im_end|>",
        special_tokens=[("<|endoftext|>", 0), ("<|im_end|>", 2)],
    )
    assert tokenizer.encode("A") == [0, *tokenizer.encode("A", add_special_tokens=False), 2, 2]
    prompt, texts = encode_continuations(tokenizer, PLAIN, TEXTS)
    assert (prompt, texts) == ([0, *expected[0]], expected[1])
    mode = Cloze(tokenizer, prompt="plain")
    assert all(tokenizer.eos_token_id not in span.tokens for span in mode._spans(None, TEXTS))


def test_texts_that_are_joined_with_the_prompt_begin_at_one_place():
    tokenizer = tiny_models.tokenizer(joins=True)
    assert "Who?\nA: The grandfather" in tokenizer.convert_tokens_to_string(
        tokenizer.tokenize(PLAIN + TEXTS[0])[-1:]
    )
    prompt, texts = encode_continuations(tokenizer, PLAIN, TEXTS)
    assert 0 < len(prompt) < len(tokenizer.encode(PLAIN))
    for text, whole in zip(texts, TEXTS, strict=True):
        assert tokenizer.decode([*prompt, *text]) == PLAIN + whole
        assert text
    assert len({text[0] for text in texts}) > 1


def test_a_span_is_never_empty():
    tokenizer = tiny_models.tokenizer()
    prompt, texts = encode_continuations(tokenizer, PLAIN, ["", " The grandson"])
    assert prompt == tokenizer.encode(PLAIN)[:-1]
    assert [text[0] for text in texts] == tokenizer.encode(PLAIN)[-1:] * 2


def test_a_prompt_of_which_nothing_is_left_is_refused():
    tokenizer = tiny_models.tokenizer(joins=True)
    with pytest.raises(InputError, match="joins 'A:' with what follows") as told:
        encode_continuations(tokenizer, "A:", TEXTS)
    assert "\n" not in str(told.value)


@pytest.fixture
def spoilt(tiny_copy):
    """A tiny model's folder with other entries in its files; None removes one."""

    def spoil(name, **changes):
        path = folder / name
        entries = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in entries.items() if v is not None}))
        return folder

    folder = tiny_copy()
    return spoil


def test_without_eos_the_end_of_the_templates_turn_ends_a_response(spoilt):
    spoilt("tokenizer_config.json", eos_token=None, pad_token=None)
    folder = spoilt("generation_config.json", eos_token_id=None)
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, "none", "float32", "cpu")
    model.generation_config.eos_token_id = None
    assert tokenizer.eos_token is None
    assert tokenizer.convert_ids_to_tokens(stop_tokens(model, tokenizer)) == ["<|im_end|>"]
    tokenizer.chat_template = NO_END
    with pytest.raises(InputError, match="nothing says which token ends a response"):
        stop_tokens(model, tokenizer)
    assert ends_of_response(tokenizer, [5, 448], 448) == [5]


@pytest.mark.parametrize("eos", ["<|im_end|>", None])
def test_padding_is_a_token_that_the_model_has(spoilt, eos):
    folder = spoilt("tokenizer_config.json", eos_token=eos, pad_token=None)
    assert load_tokenizer(folder).pad_token_id == (2 if eos else 0)
    tokenizer = load_tokenizer(folder)
    words = [f"<{i}>" for i in range(40)]
    tokenizer.add_tokens(words)
    tokenizer.pad_token = words[-1]
    tokenizer.save_pretrained(folder)
    assert tokenizer.pad_token_id > 448
    assert load_tokenizer(folder).pad_token_id == (2 if eos else 0)
