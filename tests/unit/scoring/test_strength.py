"""Scores at a strength: the base's at 0, the aligned run's at 1, the formula's at any."""

import logging
from functools import cache

import numpy as np
import pandas as pd
import pytest
import tiny_adapters
import tiny_models
import torch
from made_items import make_items
from peft.tuners.lora import LoraLayer
from spillover.data import prompts
from spillover.models.load import load_model, load_tokenizer
from spillover.models.tokens import encode_chat
from spillover.scoring.engine import Engine
from spillover.scoring.score import score
from spillover.scoring.trials import Trials

STRENGTHS = [0.0, 0.5, 1.0, 2.0]
# A window, in one layer of two, that holds a prompt, with which it goes as a tree; one that does
# not; a recurrent state.
MODELS = {
    "llama": ("llama", {}),
    "long window": ("gemma2", {"sliding_window": 1024}),
    "short window": ("gemma2", {}),
    "mamba2": ("mamba2", {}),
}
SHARING = ["llama", "long window"]
WAYS = {
    "cloze": {"cloze": {"prompt": "chat", "decide_by": "unconditional"}},
    "letter": {"option_orders": "given"},
    "generate": {"generate": {"max_new_tokens": 6}},
}
LOGP = ["logp_0", "logp_1", "logp_2"]
ITEMS = make_items(2)


class Scored:
    """Tables of one model, each made once."""

    def __init__(self, folder, adapter):
        self.folder, self.adapter = folder, adapter
        self.tokenizer = load_tokenizer(folder)
        self.tables: dict[tuple, pd.DataFrame] = {}

    def load(self, *with_adapter):
        return load_model(self.folder, "none", "float32", "cpu", *with_adapter)

    def table(self, way, *with_adapter, trees=True) -> pd.DataFrame:
        key = (way, with_adapter, trees)
        if key not in self.tables:
            with pytest.MonkeyPatch.context() as patch:
                if not trees:
                    patch.setattr(Engine, "_shares", lambda self, depth: False)
                self.tables[key] = score(
                    ITEMS, self.load(*with_adapter), self.tokenizer, scoring=way, **WAYS[way]
                )
        return self.tables[key]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    @cache
    def scored(name) -> Scored:
        architecture, changes = MODELS[name]
        scratch = tmp_path_factory.mktemp(architecture)
        folder = tiny_models.make(scratch / "model", architecture, **changes)
        return Scored(folder, tiny_adapters.make(folder, scratch / "adapter"))

    return scored


@pytest.fixture(params=MODELS)
def scored(request, made):
    return made(request.param)


def assert_equal(found, expected):
    assert found.columns.tolist() == expected.columns.tolist()
    numbers = [name for name in found if name.startswith("logp") or name == "option_mass"]
    assert np.allclose(found[numbers], expected[numbers], rtol=0, atol=1e-5, equal_nan=True)
    pd.testing.assert_frame_equal(found.drop(columns=numbers), expected.drop(columns=numbers))


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("way", WAYS)
def test_the_ends_are_the_base_run_and_the_aligned_run(scored, way, trees):
    base, aligned = (scored.table(way, *a, trees=trees) for a in ((), (scored.adapter,)))
    if way == "generate":
        assert (base["response"] != aligned["response"]).all()
    else:
        assert np.abs(base[LOGP] - aligned[LOGP]).to_numpy().max() > 1
    assert_equal(scored.table(way, scored.adapter, 0.0, trees=trees), base)
    assert_equal(scored.table(way, scored.adapter, 1.0, trees=trees), aligned)


@pytest.mark.parametrize("name", MODELS)
def test_a_strength_shares_prefixes_wherever_its_models_do(made, name, caplog):
    scored = made(name)
    with caplog.at_level(logging.INFO):
        score(ITEMS, scored.load(scored.adapter, 0.5), scored.tokenizer)
    assert ("no prefix sharing" not in caplog.text) == (name in SHARING)


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("way", WAYS)
def test_sharing_prefixes_changes_nothing(scored, way, strength):
    shared, plain = (
        scored.table(way, scored.adapter, strength, trees=trees) for trees in (True, False)
    )
    assert np.allclose(shared[LOGP], plain[LOGP], rtol=0, atol=1e-4, equal_nan=True)
    told = ["item_id", "order", "predicted", *(["response"] if way == "generate" else [])]
    pd.testing.assert_frame_equal(shared[told], plain[told])


@pytest.mark.parametrize("strength", STRENGTHS)
def test_letters_are_scored_by_the_formula(scored, strength):
    table = scored.table("letter", scored.adapter, strength)
    models = scored.load(), scored.load(scored.adapter)
    items = ITEMS.set_index("item_id").to_dict("index")
    for row in table.to_dict("records"):
        message = prompts.multiple_choice(items[row["item_id"]], row["order"])
        ids = torch.tensor([encode_chat(scored.tokenizer, message)])
        with torch.inference_mode():
            base, aligned = (m(ids, use_cache=False).logits[0, -1].double() for m in models)
        logp = (base + strength * (aligned - base)).log_softmax(-1)
        for place, letter in enumerate("ABC"):
            (token,) = scored.tokenizer.encode(letter)
            found = row[f"logp_{row['order'][place]}"]
            assert found == pytest.approx(logp[token].item(), abs=1e-4)


@pytest.mark.parametrize("adapter_off", [True, False])
@pytest.mark.parametrize("way", ["cloze", "generate"])
def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(
    made, way, adapter_off, monkeypatch, caplog
):
    """It runs out in the base's pass, or in the aligned model's behind it."""
    scored = made("llama")
    expected = scored.table(way, scored.adapter, 0.5)
    # Its passes are none of those counted here.
    monkeypatch.setattr(Trials, "share", lambda self, depth: True)
    model = scored.load(scored.adapter, 0.5)
    layer = next(module for module in model.modules() if isinstance(module, LoraLayer))
    sizes, failures = [], []

    def run_out(module, inputs):
        if layer.disable_adapters == adapter_off:
            sizes.append(inputs[0].numel())
            if sizes[-1] > 0.7 * max(sizes) and len(sizes) > n_passes:
                failures.append(sizes[-1])
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    model.get_input_embeddings().register_forward_pre_hook(run_out)
    n_passes = 1000
    score(ITEMS, model, scored.tokenizer, scoring=way, **WAYS[way])
    assert not failures
    n_passes = len(sizes)
    table = score(ITEMS, model, scored.tokenizer, scoring=way, **WAYS[way])
    assert failures
    assert "out of memory: going on with" in caplog.text
    assert_equal(table, expected)
