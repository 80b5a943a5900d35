"""Scores over shared prefixes are those of plain, unbatched passes."""

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from made_items import make_items
from spillover.data import prompts
from spillover.data.bbq import UNKNOWN_PHRASES
from spillover.models.load import load_model, load_tokenizer
from spillover.models.tokens import encode_chat
from spillover.scoring.engine import Engine
from spillover.scoring.score import score
from spillover.scoring.trials import Trials, attention_window


def items_for(model) -> pd.DataFrame:
    """One block for a real model, whose plain passes take their time; three for a tiny one."""
    return make_items(3 if model.config.vocab_size < 10_000 else 1)


def plain_logp(model, tokens):
    """Log-probability of each token but the first, from one unbatched pass."""
    with torch.inference_mode():
        logp = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
    return logp[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].numpy()


def plain_sum(model, tokenizer, prompt, text):
    start = len(tokenizer.encode(prompt))
    return plain_logp(model, tokenizer.encode(prompt + text))[start - 1 :]


LOGP = ["logp_0", "logp_1", "logp_2"]


@pytest.mark.parametrize("orders", ["given", "cyclic", "all"])
def test_letters_score_as_in_plain_passes(loaded, orders):
    model, tokenizer = loaded
    items = items_for(model)
    table = score(items, model, tokenizer, scoring="letter", option_orders=orders)
    assert list(zip(table["item_id"], table["order"], strict=True)) == [
        (item, order) for item in items["item_id"] for order in prompts.ORDERS[orders]
    ]
    by_id = items.set_index("item_id").to_dict("index")
    for row in table.to_dict("records"):
        prompt = encode_chat(
            tokenizer, prompts.multiple_choice(by_id[row["item_id"]], row["order"])
        )
        with torch.inference_mode():
            logp = model(torch.tensor([prompt])).logits[0, -1].double().log_softmax(-1)
        expected = [0.0] * 3
        for place, letter in enumerate("ABC"):
            (token,) = tokenizer.encode(letter)
            expected[int(row["order"][place])] = logp[token].item()
        assert np.allclose([row[name] for name in LOGP], expected, atol=1e-4)
        assert row["option_mass"] == pytest.approx(np.exp(expected).sum(), rel=1e-3)
        assert row["predicted"] == np.argmax(expected)


CHAT = """\
Read the context and answer the question. If the context does not say, answer that it cannot be \
determined.

Context: {context}
Question: {question}
Answer:"""


def chat_sum(model, tokenizer, message, answer, end_of_turn):
    """Log-probability of each token of a reply, rendered by the template itself."""
    chat = [{"role": "user", "content": message}]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    chat.append({"role": "assistant", "content": answer})
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert whole.startswith(prompt + answer)
    if not end_of_turn:
        whole = prompt + answer
    start, tokens = len(tokenizer.encode(prompt)), tokenizer.encode(whole)
    return plain_logp(model, tokens)[start - 1 :]


@pytest.mark.parametrize(
    ("decide_by", "prompt", "end_of_turn"),
    [
        ("sum", "chat", True),
        ("per_token", "chat", False),
        ("unconditional", "chat", True),
        ("sum", "plain", True),
        ("per_token", "plain", True),
        ("unconditional", "plain", True),
    ],
)
def test_cloze_answers_score_as_in_plain_passes(loaded, decide_by, prompt, end_of_turn):
    model, tokenizer = loaded
    items = items_for(model)
    settings = {"decide_by": decide_by, "prompt": prompt, "end_of_turn": end_of_turn}
    table = score(items, model, tokenizer, scoring="cloze", cloze=settings)
    assert list(table["item_id"]) == list(items["item_id"])
    assert set(table["order"]) == {"012"}

    def scored(question, options):
        if prompt == "plain":
            return [plain_sum(model, tokenizer, question, f" {option}") for option in options]
        return [chat_sum(model, tokenizer, question, option, end_of_turn) for option in options]

    for item, row in zip(items.to_dict("records"), table.to_dict("records"), strict=True):
        question = CHAT.format(context=item["context"], question=item["question"])
        if prompt == "plain":
            question = f"{item['context']}\n\nQ: {item['question']}\nA:"
        logp = scored(question, item["options"])
        alone = scored("A:" if prompt == "plain" else "Answer:", item["options"])
        expected = {
            "sum": [x.sum() for x in logp],
            "per_token": [x.mean() for x in logp],
            "unconditional": [x.sum() - y.sum() for x, y in zip(logp, alone, strict=True)],
        }
        for name, key in (
            ("logp", "sum"),
            ("logp_per_token", "per_token"),
            ("logp_unconditional", "unconditional"),
        ):
            found = [row[f"{name}_{option}"] for option in range(3)]
            assert np.allclose(found, expected[key], atol=1e-4)
        assert row["option_mass"] == pytest.approx(np.exp(expected["sum"]).sum(), rel=1e-3)
        assert row["predicted"] == np.argmax(expected[decide_by])


def test_all_unknown_phrases_stand_for_the_unknown_option(llama):
    model, tokenizer = llama
    items = make_items(4)
    settings = {"unknowns": "all", "prompt": "plain"}
    table = score(items, model, tokenizer, scoring="cloze", cloze=settings)
    for item, row in zip(items.to_dict("records"), table.to_dict("records"), strict=True):
        text = prompts.cloze_plain(item)
        phrases = [plain_sum(model, tokenizer, text, f" {p}").sum() for p in UNKNOWN_PHRASES]
        assert row[f"logp_{item['unknown']}"] == pytest.approx(max(phrases), abs=1e-4)
        groups = [option for option in range(3) if option != item["unknown"]]
        expected = {
            o: plain_sum(model, tokenizer, text, " " + item["options"][o]).sum() for o in groups
        }
        expected[item["unknown"]] = max(phrases)
        assert row["predicted"] == max(expected, key=expected.get)


def test_generated_text_is_that_of_plain_greedy_steps(loaded):
    model, tokenizer = loaded
    items = items_for(model)
    # What a model's folder suggests must not matter.
    model.generation_config.repetition_penalty = 5.0
    model.generation_config.do_sample = True
    table = score(items, model, tokenizer, scoring="generate", generate={"max_new_tokens": 6})
    assert model.generation_config.repetition_penalty == 5.0
    model.generation_config.repetition_penalty = None
    model.generation_config.do_sample = False
    for item, row in zip(items.to_dict("records"), table.to_dict("records"), strict=True):
        tokens = encode_chat(tokenizer, prompts.multiple_choice(item, "012"))
        answer = []
        while len(answer) < 6:
            with torch.inference_mode():
                token = model(torch.tensor([tokens + answer])).logits[0, -1].argmax().item()
            if token == tokenizer.eos_token_id:
                break
            answer.append(token)
        assert row["response"] == tokenizer.decode(answer, skip_special_tokens=True)


def test_a_window_shorter_than_the_prompts_takes_the_plain_path(tmp_path, caplog):
    folder = tiny_models.make(tmp_path / "model", "mistral")
    model, tokenizer = load_model(folder, "none", "float32", "cpu"), load_tokenizer(folder)
    assert attention_window(model) == 48
    assert Engine(model).trials.share(48)
    with caplog.at_level("INFO"):
        score(make_items(1), model, tokenizer)
    assert "attention reaches back 48" in caplog.text


def test_sharing_prefixes_saves_tokens(llama, monkeypatch):
    """Six orders cost less than a third of the tokens of the plain path."""
    model, tokenizer = llama
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[0] * output.shape[1])
    )

    def tokens(share):
        # In the place of the trials, which take passes of their own.
        monkeypatch.setattr(Trials, "share", lambda self, depth: share)
        seen.clear()
        score(make_items(3), model, tokenizer, option_orders="all")
        return sum(seen)

    shared, plain = tokens(True), tokens(False)
    hook.remove()
    assert shared < plain / 3
