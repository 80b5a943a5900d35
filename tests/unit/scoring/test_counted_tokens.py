"""The count of tokens against the tokens that go through a model."""

import pytest
from made_items import make_items
from spillover.models.load import load_model, load_tokenizer
from spillover.scoring.engine import Engine
from spillover.scoring.score import score
from spillover.scoring.tokens import count


@pytest.fixture
def passed(monkeypatch):
    """Tokens of the headers and rows that an engine runs, as they come."""
    seen = []
    header, forward = Engine._header, Engine._forward

    def of_header(self, requests, limit):
        found = header(self, requests, limit)
        seen.append(len(found) if found else 0)
        return found

    def of_rows(self, rows, share, header):
        assert share
        seen.extend(map(len, rows))
        return forward(self, rows, share, header)

    monkeypatch.setattr(Engine, "_header", of_header)
    monkeypatch.setattr(Engine, "_forward", of_rows)
    return seen


@pytest.mark.parametrize("budget", [4096, 300])
@pytest.mark.parametrize(
    "evaluation",
    [
        {"scoring": "letter", "option_orders": "cyclic"},
        {"scoring": "letter", "option_orders": "given"},
        {"scoring": "cloze", "cloze": {"prompt": "chat", "unknowns": "own"}},
        {"scoring": "cloze", "cloze": {"prompt": "plain", "unknowns": "all"}},
    ],
)
def test_what_is_counted_is_what_runs(tiny_folder, passed, evaluation, budget):
    folder, items = tiny_folder("llama"), make_items(7)
    tokenizer = load_tokenizer(folder)
    counted = count(items, tokenizer, evaluation, budget)
    assert not passed
    model = load_model(folder, "none", "float32", "cpu")
    score(items, model, tokenizer, tokens_per_batch=budget, **evaluation)
    assert counted == sum(passed) > 1000


def test_generated_text_counts_as_long_as_it_may_be(tiny_folder):
    items, tokenizer = make_items(3), load_tokenizer(tiny_folder("llama"))

    def tokens(**evaluation):
        return count(items, tokenizer, {"option_orders": "cyclic", **evaluation}, 10**6)

    one, five = (tokens(scoring="generate", generate={"max_new_tokens": n}) for n in (1, 5))
    assert one == tokens(scoring="letter")
    assert five - one == 12 * 3 * 4
