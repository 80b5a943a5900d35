"""Companion sets score over shared prefixes as in plain, unbatched passes."""

import numpy as np
import pandas as pd
import pytest
import torch
from spillover.data import companion_prompts as prompts
from spillover.models.tokens import encode_chat
from spillover.scoring.companions import score_companions

ITEMS = pd.DataFrame(
    {
        "item_id": ["s:0", "s:1", "s:2"],
        "block": ["0", "0", "1"],
        "context": ["", "The grandson spoke.", ""],
        "question": ["Who spoke?", "Who was it?", "Who left?"],
        "options": [
            ["The grandson left.", "The grandson left the store.", "A store."],
            ["The grandfather left.", "Not known."],
            ["One.", "Two.", "Three.", "Four."],
        ],
    }
)


def plain(model, tokens: list[int], start: int) -> float:
    with torch.inference_mode():
        logp = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return sum(logp[at - 1, tokens[at]].item() for at in range(start, len(tokens)))


def test_plain_texts_score_as_in_plain_passes(llama):
    model, tokenizer = llama
    table = score_companions(ITEMS, model, tokenizer, chat=False)
    assert table["item_id"].tolist() == ITEMS["item_id"].tolist()
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    for item, row in zip(ITEMS.to_dict("records"), table.to_dict("records"), strict=True):
        for option, logp, n_tokens in zip(
            item["options"], row["logp"], row["n_tokens"], strict=True
        ):
            if item["context"]:
                start = len(tokenizer.encode(item["context"]))
                tokens = tokenizer.encode(f"{item['context']} {option}")
            else:
                start, tokens = 1, [first, *tokenizer.encode(option, add_special_tokens=False)]
            assert logp == pytest.approx(plain(model, tokens, start), abs=1e-4)
            assert n_tokens == len(tokens) - start


def test_replies_and_letters_score_as_in_plain_passes(llama):
    model, tokenizer = llama
    table = score_companions(ITEMS, model, tokenizer, chat=True)
    for item, row in zip(ITEMS.to_dict("records"), table.to_dict("records"), strict=True):
        asked = encode_chat(tokenizer, prompts.open_question(item))
        for option, logp in zip(item["options"], row["logp"], strict=True):
            messages = [*prompts.open_question(item), {"role": "assistant", "content": option}]
            tokens = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
            assert logp == pytest.approx(plain(model, list(tokens), len(asked)), abs=1e-4)
        lettered = encode_chat(tokenizer, prompts.lettered_question(item))
        for letter, logp in zip("ABCD", row["letter_logp"], strict=False):
            (token,) = tokenizer.encode(letter, add_special_tokens=False)
            found = plain(model, [*lettered, token], len(lettered))
            assert logp == pytest.approx(found, abs=1e-4)
        assert len(row["letter_logp"]) == len(item["options"])


def test_what_was_done_is_picked_up_to_the_bit(llama, tmp_path):
    model, tokenizer = llama
    settings = {"chat": False, "partial": tmp_path, "fingerprint": "f"}
    whole = score_companions(ITEMS, model, tokenizer, **settings)
    file = tmp_path / "blocks.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3
    file.write_bytes(b"".join(lines[:2]) + lines[2][:20])
    again = score_companions(ITEMS, model, tokenizer, **settings)
    assert again.equals(whole)
    assert file.read_bytes().count(b"\n") == 3
    assert np.isfinite(whole["logp"].map(sum)).all()
