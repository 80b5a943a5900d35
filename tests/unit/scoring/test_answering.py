"""A model's own greedy answers to prompts."""

import logging

import pandas as pd
import pytest
import tiny_models
import torch
from spillover.core.errors import InputError
from spillover.models.load import load_model, load_tokenizer
from spillover.models.tokens import encode_chat, stop_tokens
from spillover.scoring import answering
from spillover.scoring.tokens import count_answers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.make(tmp_path_factory.mktemp("model"), "llama")


def prompts(n: int = 6) -> pd.DataFrame:
    contents = [f"Context: day {item}.\nQuestion: Who was it?" for item in range(n)]
    messages = [[{"role": "user", "content": content}] for content in contents]
    return pd.DataFrame({"item_id": [f"Age:{i}" for i in range(n)], "prompt": messages})


def test_answers_are_transformers_greedy_ones(folder):
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    table = answering.answer(prompts(), model, tokenizer, 8)
    stop = stop_tokens(model, tokenizer)
    expected = {}
    for row in prompts().itertuples():
        ids = torch.tensor([encode_chat(tokenizer, row.prompt)])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False,
            eos_token_id=stop, pad_token_id=stop[0],
        )  # fmt: skip
        text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip()
        expected[row.item_id] = text
    said = {item: text for item, text in expected.items() if text}
    assert said
    assert dict(zip(table["item_id"], table["response"], strict=True)) == said


def test_empty_answers_are_left_out_and_counted(folder, monkeypatch, caplog):
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    said = tokenizer.encode(" yes ", add_special_tokens=False)
    answers = iter([said, [], tokenizer.encode("  "), [tokenizer.pad_token_id], said * 4, said])
    monkeypatch.setattr(
        answering.Engine,
        "generate",
        lambda self, blocks, n, stop: [[next(answers) for _ in block] for block in blocks],
    )
    n_new = 4 * len(said)
    with caplog.at_level(logging.INFO, logger="spillover"):
        table = answering.answer(prompts(), model, tokenizer, n_new)
    assert table["item_id"].tolist() == ["Age:0", "Age:4", "Age:5"]
    assert table["response"].iloc[0] == "yes"
    assert f"3 answers, 1 of them cut at {n_new} tokens; 3 empty ones are left out" in caplog.text
    monkeypatch.setattr(answering.Engine, "generate", lambda self, blocks, n, stop: [[[]]])
    with pytest.raises(InputError, match="answers none of 1 prompts"):
        answering.answer(prompts(1), model, tokenizer, 4)


def test_tokens_are_counted_as_if_every_answer_were_as_long_as_it_may_be(folder):
    tokenizer = load_tokenizer(folder)
    one = encode_chat(tokenizer, prompts().loc[0, "prompt"])
    # The last new token is read and goes through no pass.
    assert count_answers(prompts(1), tokenizer, 5) == len(one) + 4
    # What they begin with runs once.
    several = count_answers(prompts(4), tokenizer, 5)
    assert len(one) + 4 * 4 < several < 4 * (len(one) + 4)


def test_nothing_is_kept_for_gradients(folder):
    """What they need of every token would fill the memory: 19 GB for 128 answers of SmolLM2."""
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    model.requires_grad_(True)
    kept = []
    model.register_forward_hook(lambda module, args, output: kept.append(output.logits.grad_fn))
    answering.answer(prompts(2), model, tokenizer, 4)
    assert kept
    assert not any(kept)
