"""Every architecture is trained with the default adapter, by DPO's loss alone."""

import logging

import datasets
import numpy as np
import pytest
import tiny_models
import torch
from documented import documented
from peft import get_peft_model_state_dict
from preferences import make_pairs
from spillover.alignment.diagnostics import diagnose
from spillover.alignment.encoding import encode
from spillover.alignment.modules import all_linear, without_noise
from spillover.alignment.settings import LORA, OBJECTIVE, TRAINING, lora_config, skeleton
from spillover.alignment.shared_prefix_dpo import obstacle, sequences_of
from spillover.alignment.trainer import StockTrainer, arguments
from spillover.core.errors import InputError
from spillover.models.architecture import is_router
from spillover.models.load import load_model, load_tokenizer
from spillover.models.prefix_tree import PrefixTree
from tiny_training import train, weights
from transformers import AutoModelForCausalLM


@pytest.fixture(scope="module", params=tiny_models.ARCHITECTURES)
def trained(request, tiny_folder, tmp_path_factory):
    """Architecture, its folder, where its adapter is, the log's table, and what was logged."""
    scratch = tmp_path_factory.mktemp("training")
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("spillover")
    level, logger.level = logger.level, logging.INFO
    logger.addHandler(handler)
    folder = tiny_folder(request.param)
    log = train(folder, scratch)
    logger.removeHandler(handler)
    logger.level = level
    return request.param, folder, scratch, log, "\n".join(messages)


def plain_answers(folder, rows, adapter=None) -> np.ndarray:
    """Log-probability of chosen, then of rejected answers, each sequence by itself."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    if adapter is not None:
        model.load_adapter(adapter)
    found = []
    for prompt, answer in sequences_of(rows):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + answer]), use_cache=False).logits[0]
        scores = logits.double().log_softmax(-1)[len(prompt) - 1 : -1]
        found.append(scores[torch.arange(len(answer)), torch.tensor(answer)].sum().item())
    return np.array(found).reshape(2, -1)


def test_training_begins_at_the_plain_model_with_the_loss_of_dpo_alone(trained):
    _, folder, _, log, _ = trained
    rows = encode(make_pairs(4, "three_option"), load_tokenizer(folder), max_length=1024)
    chosen, rejected = plain_answers(folder, rows)
    # The first step is of two items; which ones, the seed says.
    means = [
        (chosen[list(part)].mean(), rejected[list(part)].mean())
        for first in range(4)
        for second in range(first + 1, 4)
        for part in [(2 * first, 2 * first + 1, 2 * second, 2 * second + 1)]
    ]
    first = log.iloc[0]
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-5)
    assert min(
        max(abs(first["logp_chosen"] - c), abs(first["logp_rejected"] - r)) for c, r in means
    ) == pytest.approx(0, abs=2e-4)


def test_every_layer_that_was_given_an_adapter_was_trained(trained):
    _, folder, scratch, _, _ = trained
    found = weights(scratch)
    assert all(value.abs().max() > 0 for key, value in found.items() if "lora_B" in key)
    layers = {key.split(".lora_")[0].removeprefix("base_model.model.") for key in found}
    base = skeleton(folder)
    expected, _ = all_linear(base)
    assert layers == set(expected)
    routers = [name for name, module in base.named_modules() if is_router(module)]
    assert not any(layer.startswith(router) for layer in layers for router in routers)
    assert bool(routers) == ("experts" in all_linear(base)[1])


def test_the_adapter_that_is_loaded_is_the_one_that_was_trained(trained):
    _, folder, scratch, _, _ = trained
    model = load_model(folder, "none", "float32", "cpu", scratch / "adapter")
    loaded, stored = get_peft_model_state_dict(model), weights(scratch)
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)
    rows = encode(make_pairs(2, "cloze"), load_tokenizer(folder), max_length=1024)
    found = diagnose(model, rows).set_index("run")
    for run, adapter in (("base", None), ("aligned", scratch / "adapter")):
        chosen, rejected = plain_answers(folder, rows, adapter)
        assert found.loc[run, "logp_chosen"] == pytest.approx(chosen.mean(), abs=1e-4)
        assert found.loc[run, "logp_rejected"] == pytest.approx(rejected.mean(), abs=1e-4)
    assert found.loc["aligned", "kl_to_base"] > 1e-6


def test_the_table_says_how_it_is_trained(trained):
    name, _, _, _, messages = trained
    shared = "no" if "no prefixes are shared" in messages else "yes"
    found = {"trained": "yes", "shared in training": shared}
    assert found == documented(name, *found)


# ------------------------------------------------------------------ what an adapter goes on


@pytest.mark.parametrize("architecture", ["olmoe", "mixtral", "qwen3_moe"])
def test_experts_have_an_adapter_if_they_are_asked_for(tiny_folder, tmp_path, architecture):
    mixtral = architecture == "mixtral"
    names = ["q_proj", *(("w1", "w2", "w3") if mixtral else ("gate_proj", "up_proj", "down_proj"))]
    folder = tiny_folder(architecture)
    with pytest.raises(InputError, match="on which PEFT has no dropout; set lora"):
        train(folder, tmp_path, lora={"target_modules": names})
    train(folder, tmp_path, lora={"target_modules": names, "dropout": 0.0})
    stored = weights(tmp_path)
    assert any("experts" in name for name in stored)
    model = load_model(folder, "none", "float32", "cpu", tmp_path / "adapter")
    loaded = get_peft_model_state_dict(model)
    assert loaded.keys() == stored.keys()
    assert all(torch.equal(loaded[name], stored[name]) for name in stored)


@pytest.mark.parametrize(
    ("architecture", "names", "message"),
    [
        ("falcon_h1", ["q_proj", "out_proj"], "Module 'out_proj' is incompatible with Mamba"),
        ("llama4_text", ["q_proj", "router"], "the router .* cannot have an adapter"),
        ("mamba2", ["q_proj"], "matches no linear layer"),
        ("llama", ["lm_head"], "the output head cannot have an adapter"),
    ],
)
def test_what_cannot_have_an_adapter_is_told_in_one_line(tiny_folder, architecture, names, message):
    with pytest.raises(InputError, match=message) as error:
        skeleton(tiny_folder(architecture), LORA | {"target_modules": names})
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ the reference


def test_nothing_random_but_the_adapters_dropout_is_left_in_training(tmp_path):
    folder = tiny_models.make(
        tmp_path / "model", "mixtral", attention_dropout=0.5, router_jitter_noise=0.5
    )
    model = load_model(folder, "none", "float32", "cpu")
    ids = torch.arange(3, 40)[None]
    expected = model(ids).logits
    model.train()
    assert not torch.allclose(model(ids).logits, expected, atol=1e-2)
    without_noise(model)
    assert torch.allclose(model(ids).logits, expected, atol=1e-5)


def test_logits_that_trl_does_not_know_are_refused(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    model = load_model(folder, "none", "float32", "cpu")
    rows = encode(make_pairs(2, "cloze"), load_tokenizer(folder), max_length=1024)
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, output: 3 * (output / 3).tanh())
    settings = arguments(
        OBJECTIVE, TRAINING, 0, tmp_path, torch.device("cpu"), gradient_checkpointing=False
    )
    trainer = StockTrainer(
        model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=load_tokenizer(folder),
        peft_config=lora_config(LORA, model),
        tokens_per_batch=1000,
    )
    with pytest.raises(InputError, match="LlamaForCausalLM cannot be trained: TRL's log-prob"):
        trainer.check_log_probabilities(rows[0])


# ------------------------------------------------------------------ shared prefixes


def test_a_window_that_only_the_longest_pair_leaves_is_noticed(tiny_folder, monkeypatch):
    model = load_model(tiny_folder("mistral"), "none", "float32", "cpu")
    rows = [
        {"prompt_ids": list(range(3, 3 + n)), "chosen_ids": [5, 6], "rejected_ids": [7, 6]}
        for n in (20, 20, 90, 20)
    ]
    assert obstacle(model, rows) is None
    mask = PrefixTree.attention_mask
    monkeypatch.setattr(PrefixTree, "attention_mask", lambda tree, **limits: mask(tree))
    assert obstacle(model, rows[:2]) is None
    assert "differ" in obstacle(model, rows)
