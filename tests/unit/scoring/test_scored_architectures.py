"""Every architecture is scored as transformers' plain forward pass scores it."""

import logging

import numpy as np
import pytest
import tiny_models
import torch
from documented import documented
from spillover.core.errors import InputError
from spillover.models.load import load_model
from spillover.scoring.engine import Engine, Prompt, Span
from spillover.scoring.trials import SHORTEST, attention_window
from transformers import AutoModelForCausalLM

# Lengths of sequences, inside of the windows and chunks of the tiny models (48) and beyond.
LENGTHS = {"short": 30, "long": 80}
STEPS = 4


@pytest.fixture(scope="module", params=tiny_models.ARCHITECTURES)
def models(request, tiny_folder):
    """Name, the model as the project loads it, and as transformers does without being asked."""
    folder = tiny_folder(request.param)
    plain = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return request.param, load_model(folder, "none", "float32", "cpu"), plain.eval()


def make_blocks(length: int) -> list[list[tuple[int, ...]]]:
    """Sequences of up to ``length`` tokens that begin alike, in a block longer than anywhere."""
    draw = np.random.default_rng(length)
    first = draw.integers(3, 448, 5).tolist()
    blocks = []
    for n_sequences in (4, 2):
        shared = first + draw.integers(3, 448, length - 17).tolist()
        ends = [draw.integers(3, 448, n).tolist() for n in range(12, 12 - 2 * n_sequences, -2)]
        blocks.append([tuple(shared + end) for end in ends])
    return blocks


def alone(model, tokens) -> np.ndarray:
    """Log-probability of each token but the first, from one unbatched pass."""
    with torch.inference_mode():
        logp = model(torch.tensor([tokens]), use_cache=False).logits[0].double().log_softmax(-1)
    return logp[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])].numpy()


def greedy(model, tokens, stop) -> list[int]:
    """One unbatched pass a token, without a cache."""
    tokens = list(tokens)
    start = len(tokens)
    with torch.inference_mode():
        while len(tokens) < start + STEPS:
            logits = model(torch.tensor([tokens]), use_cache=False).logits[0, -1]
            if (token := logits.argmax().item()) == stop:
                break
            tokens.append(token)
    return tokens[start:]


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("budget", [None, 1])
def test_log_probabilities_are_those_of_a_plain_pass(models, length, budget):
    _, model, plain = models
    blocks = make_blocks(LENGTHS[length])
    # A letter is a span of one token; an answer's text has several.
    spans = [
        [Span(tokens, start) for tokens in block for start in (len(tokens) - 1, len(tokens) - 3)]
        for block in blocks
    ]
    with torch.inference_mode():
        found = Engine(model, budget).log_probabilities(spans)
    for block, values in zip(spans, found, strict=True):
        expected = [alone(plain, span.tokens)[span.start - 1 :].sum() for span in block]
        assert np.abs(values - expected).max() < 1e-4


@pytest.mark.parametrize("length", LENGTHS)
def test_generated_text_is_that_of_plain_greedy_steps(models, length):
    _, model, plain = models
    blocks = make_blocks(LENGTHS[length])
    stop = greedy(plain, blocks[0][1], None)[2]  # of one text, in its midst
    with torch.inference_mode():
        prompts = [[Prompt(tokens) for tokens in block] for block in blocks]
        found = Engine(model).generate(prompts, STEPS, [stop])
    assert found == [[greedy(plain, tokens, stop) for tokens in block] for block in blocks]


def test_the_table_says_how_it_is_scored(models, tiny_folder, caplog):
    name, model, _ = models
    engine = Engine(model)
    shared = {True: "yes", False: "no"}[engine.trials.share(SHORTEST)]
    window = attention_window(model)
    if shared == "yes" and window:
        shared = "within its window"
        assert engine.trials.share(window)
        assert not engine.trials.share(window + 1)
    with caplog.at_level(logging.INFO):
        load_model(tiny_folder(name), "none", "float32", "cpu")
    attention = caplog.text.split("attention: ")[1].split()[0]
    found = {"attention": attention, "scored": "yes", "shared in scoring": shared}
    assert found == documented(name, *found)


# ------------------------------------------------------------------ the trial notices


def test_an_attention_that_changes_beyond_some_length_is_noticed_there(tiny_folder, monkeypatch):
    """A window that the configuration does not tell of."""
    model = load_model(tiny_folder("mistral"), "none", "float32", "cpu")
    monkeypatch.setattr("spillover.scoring.trials.attention_window", lambda model: None)
    trials = Engine(model).trials
    assert trials.share(32)
    assert not trials.share(60)
    assert trials.share(32)  # whatever else was asked for
    assert not Engine(model).trials.share(60)


@pytest.mark.parametrize("architecture", ["llama", "mamba2"])
def test_a_model_that_sees_what_is_behind_is_refused(tiny_folder, monkeypatch, architecture):
    model = load_model(tiny_folder(architecture), "none", "float32", "cpu")
    embed = model.get_input_embeddings()
    hook = embed.register_forward_hook(lambda module, inputs, output: output + output.mean(1, True))
    with pytest.raises(InputError, match="cannot be scored: what stands behind a token changes"):
        Engine(model)
    hook.remove()
    Engine(model)


def test_a_row_whose_nodes_are_moved_is_still_an_honest_trial(tiny_folder):
    """What is read stands last in its row: a node before a fork, behind its descendants."""
    model = load_model(tiny_folder("llama"), "none", "float32", "cpu")
    forward = model.forward

    def triangle(attention_mask=None, **inputs):
        if attention_mask is not None:
            n, before = attention_mask.shape[-2:]
            seen = torch.ones(n, before, dtype=torch.bool).tril(before - n)
            attention_mask = attention_mask.masked_fill(~seen, torch.finfo(torch.float32).min)
        return forward(attention_mask=attention_mask, **inputs)

    model.forward = triangle
    assert not Engine(model).trials.share(SHORTEST)
