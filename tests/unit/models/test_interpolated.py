"""A model at a strength is its base and its aligned model, interpolated, and leaves both alone."""

import copy
from functools import cache

import numpy as np
import pytest
import tiny_adapters
import torch
from peft import IA3Config, PromptTuningConfig
from spillover.core.errors import InputError
from spillover.models import prefix_tree
from spillover.models.interpolated import Interpolated, _BaseBeside
from spillover.models.load import load_model
from spillover.scoring.engine import Engine, Prompt
from transformers import DynamicCache

# Full attention; windows of 48 tokens; recurrent states beside attention, and alone.
ARCHITECTURES = ["llama", "gemma2", "qwen3_next", "lfm2", "mamba2"]
STRENGTHS = [0.0, 0.5, 1.0, 2.0]
STEPS = 5
SEQUENCES = [(5, 6, 7, 8), (5, 6, 9), (5, 6, 7), (4, 6, 7, 8)]
IDS = torch.from_numpy(np.random.default_rng(0).integers(3, 448, (2, 70)))


class Models:
    """A base, its aligned model, and both at a strength, each loaded by itself."""

    def __init__(self, folder, adapter, quantization="none"):
        self.sources = folder, quantization, "float32", "cpu"
        self.adapter = adapter
        self.base, self.aligned = load_model(*self.sources), load_model(*self.sources, adapter)

    def at(self, strength) -> Interpolated:
        return load_model(*self.sources, self.adapter, strength)

    def direct(self, strength, ids) -> torch.Tensor:
        """Logits by the formula, of two plain passes."""
        base, aligned = (logits(model, ids).double() for model in (self.base, self.aligned))
        return base + strength * (aligned - base)

    def greedy(self, strength, tokens) -> list[int]:
        tokens, start = list(tokens), len(tokens)
        for _ in range(STEPS):
            tokens.append(self.direct(strength, torch.tensor([tokens]))[0, -1].argmax().item())
        return tokens[start:]


def logits(model, ids=IDS):
    with torch.inference_mode():
        return model(input_ids=ids, use_cache=False).logits


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """Models of an architecture, made once."""

    @cache
    def models(architecture, quantization="none"):
        folder = tiny_folder(architecture)
        path = tmp_path_factory.mktemp(architecture) / "adapter"
        return Models(folder, tiny_adapters.make(folder, path), quantization)

    return models


@pytest.fixture(params=ARCHITECTURES)
def models(request, made):
    return made(request.param)


# ------------------------------------------------------------------ passes


@pytest.mark.parametrize("strength", STRENGTHS)
def test_a_pass_is_two_plain_passes_interpolated(models, strength):
    expected = models.direct(strength, IDS)
    assert (logits(models.at(strength)) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_the_ends_are_the_base_and_the_aligned_model_to_the_bit(made, architecture, quantization):
    models = made(architecture, quantization)
    base, aligned = logits(models.base), logits(models.aligned)
    assert (base.argmax(-1) != aligned.argmax(-1)).float().mean() > 0.5
    assert torch.equal(logits(models.at(0.0)), base)
    assert torch.equal(logits(models.at(1.0)), aligned)
    expected = models.direct(0.5, IDS)
    assert (logits(models.at(0.5)) - expected).abs().max() < 1e-5 * expected.abs().max()


KINDS = {
    "DoRA": {"use_dora": True},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "whole modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "tokens": {"target_modules": ["q_proj"], "trainable_token_indices": IDS[0, :9].tolist()},
    "IA3": {
        "config": IA3Config(
            task_type="CAUSAL_LM", target_modules=["k_proj", "down_proj"],
            feedforward_modules=["down_proj"], init_ia3_weights=False,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_of_every_kind_are_off_for_the_base(tiny_folder, tmp_path, kind):
    folder = tiny_folder("llama")
    models = Models(folder, tiny_adapters.make(folder, tmp_path / "adapter", **KINDS[kind]))
    assert (logits(models.base) - logits(models.aligned)).abs().max() > 1e-3
    model = models.at(0.0)
    assert torch.equal(logits(model), logits(models.base))
    assert torch.equal(logits(model.adapted), logits(models.aligned))  # and on again
    assert torch.equal(logits(models.at(1.0)), logits(models.aligned))


def test_a_pass_that_fails_leaves_the_adapter_on(made, monkeypatch):
    model = made("llama").at(0.5)
    before = logits(model)

    def run_out(*inputs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    head = model.adapted.get_output_embeddings()
    hook = head.register_forward_pre_hook(run_out)
    with pytest.raises(torch.OutOfMemoryError):
        logits(model)
    hook.remove()
    assert torch.equal(logits(model.adapted), logits(made("llama").aligned))
    assert torch.equal(logits(model), before)


# ------------------------------------------------------------------ states


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
def test_trees_behind_a_header_give_the_logits_of_plain_passes(made, architecture, strength):
    models = made(architecture)
    model = models.at(strength)
    first = list(range(10, 15))
    trees = [prefix_tree.build(SEQUENCES[:3]), prefix_tree.build(SEQUENCES[3:])]
    nodes = [np.unique(tree.paths[0]) for tree in trees]
    with torch.inference_mode():
        header = prefix_tree.read_header(model, first)
        for _ in range(2):  # a header is read once and used often
            found = prefix_tree.logits_of_rows(model, trees, nodes, header)
    for row, sequence in zip(found, [SEQUENCES[0], SEQUENCES[3]], strict=True):
        expected = models.direct(strength, torch.tensor([[*first, *sequence]]))[0, len(first) :]
        assert (row - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_header_holds_the_states_of_the_base_and_then_of_the_aligned_model(made):
    models = made("llama")
    headers = (
        prefix_tree.read_header(model, (5, 6, 7))
        for model in (models.at(0.5), models.base, models.aligned)
    )
    with torch.inference_mode():
        both, base, aligned = (header.states for header in headers)
    assert len(both) == 4
    for found, expected in zip(both, base + aligned, strict=True):
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_states_that_are_not_of_both_models_are_refused(made):
    model = made("gemma2").at(0.5)
    for layers in (1, 2):
        cache = DynamicCache(config=model.config)
        cache.layers = cache.layers[:layers]
        with pytest.raises(ValueError, match="expected an empty cache"):
            model(input_ids=IDS, past_key_values=cache, use_cache=True)


# ------------------------------------------------------------------ text


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("trees", [True, False])
def test_text_is_that_of_plain_greedy_steps(models, strength, trees):
    """Prompts on both sides of a window, two of one length."""
    draw = np.random.default_rng(1)
    prompts = [tuple(map(int, draw.integers(3, 448, n))) for n in (20, 20, 46)]
    engine = Engine(models.at(strength))
    engine.takes_trees = trees
    with torch.inference_mode():
        (found,) = engine.generate([[Prompt(prompt) for prompt in prompts]], STEPS, [0])
    expected = [models.greedy(strength, prompt) for prompt in prompts]
    assert all(0 not in answer for answer in expected)
    assert found == expected


def test_nothing_is_left_of_generating(made):
    model = made("mamba2").at(0.5)
    settings = copy.deepcopy(model.generation_config)
    before = logits(model)
    engine = Engine(model)
    with torch.inference_mode():
        engine.generate([[Prompt((5, 6, 7))]], STEPS, [0])
    inner = model.adapted.get_base_model()
    assert not inner._forward_hooks
    assert not inner._forward_pre_hooks
    assert model.generation_config == settings
    assert torch.equal(logits(model), before)


def test_states_that_come_back_under_another_name_are_refused(made):
    """Rather than the base being continued with the aligned model's."""
    model = made("mamba2").at(0.5)
    inner, beside = model.adapted.get_base_model(), _BaseBeside(model)
    inputs = {"input_ids": IDS, "use_cache": True}
    with torch.inference_mode():
        beside.before(inner, (), inputs)
        assert list(beside.states) == ["cache_params"]
        with pytest.raises(InputError, match="Mamba2ForCausalLM cannot generate at a strength"):
            beside.before(inner, (), inputs | {"state": beside.states["cache_params"]})


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_a_strength_outside_is_refused(made, strength):
    with pytest.raises(InputError, match="strength: expected a number from 0 to 2, found"):
        made("llama").at(strength)


def test_a_strength_without_an_adapter_is_refused(tiny_folder):
    with pytest.raises(InputError, match=r"strength: expected an adapter for strength 0.5"):
        load_model(tiny_folder("llama"), "none", "float32", "cpu", strength=0.5)


CHANGING = {
    "biases": ("qwen2", "none", {"bias": "all"}),
    "PiSSA": ("llama", "none", {"init_lora_weights": "pissa"}),
    "OLoRA": ("llama", "none", {"init_lora_weights": "olora"}),
    # Its base's parameters are others, rather than changed.
    "OLoRA on NF4": ("llama", "nf4", {"init_lora_weights": "olora"}),
}


@pytest.mark.parametrize("kind", CHANGING)
def test_an_adapter_that_changes_its_base_is_refused(tiny_folder, tmp_path, kind):
    """With the adapter off there is another model than the base run's."""
    architecture, quantization, changes = CHANGING[kind]
    folder = tiny_folder(architecture)
    adapter = tiny_adapters.make(folder, tmp_path / "adapter", **changes)
    model = load_model(folder, quantization, "float32", "cpu", adapter)
    with model.disable_adapter():
        off = logits(model)
    base = logits(load_model(folder, quantization, "float32", "cpu"))
    assert not torch.allclose(off, base, atol=1e-3)
    with pytest.raises(InputError, match="strength: the adapter changes weights of its base"):
        load_model(folder, quantization, "float32", "cpu", adapter, 0.5)


def test_an_adapter_that_adds_tokens_is_refused(tiny_folder, tmp_path):
    folder = tiny_folder("llama")
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    adapter = tiny_adapters.make(folder, tmp_path / "adapter", config)
    with pytest.raises(InputError, match=r"adapter of a model's layers.*found PromptTuningConfig"):
        load_model(folder, "none", "float32", "cpu", adapter, 0.5)
