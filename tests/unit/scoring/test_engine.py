"""Settings of the machine and its memory change no score."""

import numpy as np
import pandas as pd
import pytest
import tiny_models
import torch
from made_items import make_items
from spillover.core.errors import InputError
from spillover.models.load import load_model, load_tokenizer
from spillover.scoring.engine import Engine, Span
from spillover.scoring.letter import LOGP
from spillover.scoring.score import score


@pytest.mark.parametrize("budget", [1, 64, 300, 100_000])
@pytest.mark.parametrize("mode", ["letter", "cloze", "generate"])
def test_the_budget_changes_nothing(llama, mode, budget):
    model, tokenizer = llama
    items = make_items(5)
    settings = {"scoring": mode, "generate": {"max_new_tokens": 3}}
    expected = score(items, model, tokenizer, **settings)
    found = score(items, model, tokenizer, tokens_per_batch=budget, **settings)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-4)
    assert found["predicted"].equals(expected["predicted"])


def test_no_pass_exceeds_the_budget_unless_one_sequence_does(llama):
    model, tokenizer = llama
    sizes = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: sizes.append(output.shape[0] * output.shape[1])
    )
    score(make_items(6), model, tokenizer, option_orders="all", tokens_per_batch=900)
    hook.remove()
    assert max(sizes) <= 900
    assert sum(size > 450 for size in sizes) > 1  # and the budget is used


class OutOfMemory:
    """A model that runs out of memory on passes of more than so many tokens."""

    def __init__(self, model, limit):
        self.limit, self.failures, self.forward = limit, 0, model.forward

    def __call__(self, input_ids=None, **inputs):
        if input_ids.numel() > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.forward(input_ids=input_ids, **inputs)


@pytest.mark.parametrize("mode", ["letter", "generate"])
def test_out_of_memory_halves_the_budget_and_repeats_the_batch(llama, monkeypatch, mode, caplog):
    model, tokenizer = llama
    items = make_items(6)
    settings = {"scoring": mode, "generate": {"max_new_tokens": 3}}
    expected = score(items, model, tokenizer, **settings)
    limited = OutOfMemory(model, 500)
    monkeypatch.setattr(model, "forward", limited)
    found = score(items, model, tokenizer, tokens_per_batch=4000, **settings)
    pd.testing.assert_frame_equal(found, expected, rtol=0, atol=1e-4)
    assert 1 <= limited.failures <= 5  # it learns, and does not fail batch after batch
    assert "out of memory: going on with" in caplog.text


def test_out_of_memory_with_one_sequence_is_told(llama, monkeypatch):
    model, tokenizer = llama
    monkeypatch.setattr(model, "forward", OutOfMemory(model, 20))
    with pytest.raises(InputError, match="single sequence"):
        score(make_items(1), model, tokenizer)


def test_other_errors_are_not_taken_for_memory(llama, monkeypatch):
    model, _ = llama
    running = Engine(model)

    def broken(**inputs):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(model, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        running.log_probabilities([[Span((1, 2, 3), 1)]])


def test_values_that_are_not_finite_are_refused(tmp_path):
    folder = tiny_models.make(tmp_path / "model", "llama")
    model, tokenizer = load_model(folder, "none", "float32", "cpu"), load_tokenizer(folder)
    with torch.no_grad():
        model.get_output_embeddings().weight[0] = float("nan")
    with pytest.raises(InputError, match="not finite"):
        score(make_items(1), model, tokenizer)


def test_no_items_give_an_empty_table(llama):
    table = score(make_items(1).iloc[:0], *llama)
    assert len(table) == 0
    assert [*table.columns] == ["item_id", "order", *LOGP, "option_mass", "predicted"]


def test_the_order_of_items_and_a_torn_block_do_not_matter(llama):
    items = make_items(3)
    whole = score(items, *llama).set_index("item_id")
    some = items.sample(7, random_state=0)
    found = score(some, *llama)
    assert list(found["item_id"]) == list(some["item_id"])
    assert np.allclose(found[LOGP], whole.loc[found["item_id"], LOGP], atol=1e-4)
