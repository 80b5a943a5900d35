"""Text generated behind shared prefixes is that of plain greedy steps, token for token."""

import numpy as np
import pytest
import tiny_models
import torch
from spillover.core.errors import InputError
from spillover.models import prefix_tree
from spillover.models.load import load_model
from spillover.scoring.engine import Engine, Prompt
from spillover.scoring.trials import attention_window

STEPS = 7


def make_blocks() -> list[list[Prompt]]:
    """Prompts of 9 to 33 tokens, which all begin with the same five, and in a block with more."""
    draw = np.random.default_rng(0)
    first = tuple(draw.integers(3, 448, 5))
    blocks = []
    for n_prompts in (4, 1, 3, 8):
        shared = tuple(draw.integers(3, 448, draw.integers(2, 16)))
        ends = [tuple(draw.integers(3, 448, draw.integers(2, 13))) for _ in range(n_prompts)]
        blocks.append([first + shared + end for end in ends])
    blocks[0].append(blocks[0][1])  # equal in a block,
    blocks[2].append(blocks[0][1])  # and across blocks
    blocks[3].append(blocks[3][0][:-1])  # one prompt that another one begins with
    return [[Prompt(tuple(map(int, prompt))) for prompt in block] for block in blocks]


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def model(request, tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("model"), request.param)
    return load_model(folder, "none", "float32", "cpu")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("model"), "llama")
    return load_model(folder, "none", "float32", "cpu")


def generate(model, blocks, stop, max_new_tokens=STEPS, budget=None, trees=True):
    running = Engine(model, budget)
    assert running.takes_trees
    running.takes_trees = trees
    with torch.inference_mode():
        return running.generate(blocks, max_new_tokens, stop)


def greedy_steps(model, tokens, max_new_tokens=STEPS):
    """Each step one unbatched pass without a cache; nothing stops it."""
    tokens = list(tokens)
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            tokens.append(model(torch.tensor([tokens])).logits[0, -1].argmax().item())
    return tokens[-max_new_tokens:]


def expected_of(model, blocks, stop, max_new_tokens=STEPS):
    def until_stop(tokens):
        ends = [i for i, token in enumerate(tokens) if token in stop]
        return tokens[: min(ends, default=len(tokens))]

    return [
        [until_stop(greedy_steps(model, prompt.context, max_new_tokens)) for prompt in block]
        for block in blocks
    ]


def stops_of_some(model, blocks) -> list[int]:
    """Tokens that end some sequences at once, some later, and some not at all."""
    answers = [greedy_steps(model, prompt.context) for block in blocks for prompt in block]
    return [answers[10][0], answers[12][3], answers[14][1]]  # of the largest block


@pytest.fixture
def passes(model):
    """Rows and width of each pass through the model."""
    seen = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(tuple(inputs[0].shape))
    )
    yield seen
    hook.remove()


# ------------------------------------------------------------------ exactness


@pytest.mark.parametrize("max_new_tokens", [1, STEPS])
def test_shared_and_plain_text_is_that_of_greedy_steps(model, max_new_tokens):
    blocks = make_blocks()
    stop = stops_of_some(model, blocks)
    expected = expected_of(model, blocks, stop, max_new_tokens)
    lengths = {len(answer) for block in expected for answer in block}
    assert {0, max_new_tokens} <= lengths
    assert max_new_tokens == 1 or len(lengths) > 2
    assert generate(model, blocks, stop, max_new_tokens) == expected
    assert generate(model, blocks, stop, max_new_tokens, trees=False) == expected


def test_prompts_that_share_nothing_have_no_header(llama):
    blocks = [[Prompt((4, 5, 6)), Prompt((7, 8))], [Prompt((9,))]]
    assert generate(llama, blocks, [0]) == expected_of(llama, blocks, [0])


def test_blocks_without_prompts_have_no_answers(llama):
    assert generate(llama, [], [0]) == []
    assert generate(llama, [[], []], [0]) == [[], []]
    assert generate(llama, [[], [Prompt((4, 5))]], [0], 1) == [[], [greedy_steps(llama, (4, 5), 1)]]


def test_settings_of_the_models_folder_do_not_matter(llama, monkeypatch):
    blocks = make_blocks()
    expected = expected_of(llama, blocks, [0])
    monkeypatch.setattr(llama.generation_config, "repetition_penalty", 5.0)
    monkeypatch.setattr(llama.generation_config, "do_sample", True)
    for trees in (True, False):
        assert generate(llama, blocks, [0], trees=trees) == expected
        assert llama.generation_config.repetition_penalty == 5.0


# ------------------------------------------------------------------ what goes through the model


def test_trees_go_through_once_and_then_one_token_a_sequence(model, passes):
    blocks = make_blocks()
    stop = stops_of_some(model, blocks)
    expected = expected_of(model, blocks, stop)
    running = Engine(model, 100_000)
    running.trials.share(40)  # which takes passes of its own
    passes.clear()
    with torch.inference_mode():
        running.generate(blocks, STEPS, stop)
    header, trees, *steps = passes
    prompts = [[prompt.context for prompt in block] for block in blocks]
    common = len(prefix_tree.common_prefix([p for block in prompts for p in block], 99))
    assert header == (1, common)
    largest = max(len(prefix_tree.build(block)) for block in prompts) - common
    assert trees == (len(blocks), prefix_tree.padded(largest))
    # A block's distinct sequences that are not at their end, in the block that has most.
    distinct = [
        {prompt.context: answer for prompt, answer in zip(*pair, strict=True)}
        for pair in zip(blocks, expected, strict=True)
    ]
    for step, shape in enumerate(steps, start=1):
        going = [sum(len(answer) >= step for answer in block.values()) for block in distinct]
        assert shape == (len(blocks), max(going))
    assert len(steps) == STEPS - 1
    assert len(set(steps)) > 2


def test_sharing_sends_fewer_tokens_through_the_model(model, passes):
    first, *others = np.random.default_rng(0).integers(3, 448, (9, 20)).tolist()
    blocks = [[Prompt((*first, *other[:8], i)) for i in range(3, 9)] for other in others]
    counts = []
    for trees in (True, False):
        running = Engine(model)
        running.takes_trees = trees
        running.trials.share(40)
        passes.clear()
        with torch.inference_mode():
            running.generate(blocks, 4, [0])
        counts.append(sum(rows * width for rows, width in passes))
    assert counts[0] < counts[1] / 4


def test_all_stopped_ends_the_batch(model, passes):
    blocks = [[Prompt((4, 5, 6)), Prompt((4, 5, 7))]]
    stop = [greedy_steps(model, prompt.context, 1)[0] for prompt in blocks[0]]
    running = Engine(model)
    passes.clear()
    with torch.inference_mode():
        assert running.generate(blocks, STEPS, stop) == [[[], []]]
    assert passes == [(1, 2), (1, 8)]  # the header, the padded tree, and nothing behind


def test_a_window_that_the_text_would_leave_takes_the_plain_path(tmp_path, caplog):
    folder = tiny_models.make(tmp_path / "model", "mistral")
    mistral = load_model(folder, "none", "float32", "cpu")
    assert attention_window(mistral) == 48
    blocks = [[Prompt(tuple(range(3, 43))), Prompt(tuple(range(4, 43)))]]
    with caplog.at_level("INFO"):
        assert generate(mistral, blocks, [0], 8) == expected_of(mistral, blocks, [0], 8)
        assert "no prefix sharing" not in caplog.text
        assert generate(mistral, blocks, [0], 20) == expected_of(mistral, blocks, [0], 20)
    assert "sequences of up to 60 tokens, and attention reaches back 48" in caplog.text


# ------------------------------------------------------------------ machine settings


@pytest.mark.parametrize("trees", [True, False])
@pytest.mark.parametrize("budget", [1, 64, 300, 100_000])
def test_the_budget_changes_nothing(llama, budget, trees):
    blocks = make_blocks()
    stop = stops_of_some(llama, blocks)
    expected = expected_of(llama, blocks, stop)
    assert generate(llama, blocks, stop, budget=budget, trees=trees) == expected


class OutOfMemory:
    """A model that runs out of memory when a batch's keys are more than so many."""

    def __init__(self, model, limit):
        self.limit, self.failures, self.forward = limit, 0, model.forward

    def __call__(self, input_ids=None, past_key_values=None, **inputs):
        kept = past_key_values.get_seq_length() if past_key_values is not None else 0
        if len(input_ids) * (kept + input_ids.shape[1]) > self.limit:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return self.forward(input_ids=input_ids, past_key_values=past_key_values, **inputs)


@pytest.mark.parametrize("limit", [120, 350])
def test_out_of_memory_halves_batches_then_rows(llama, monkeypatch, limit, caplog):
    """The larger limit is met while text grows, the smaller one by single blocks."""
    blocks = make_blocks()
    stop = stops_of_some(llama, blocks)
    expected = expected_of(llama, blocks, stop)
    limited = OutOfMemory(llama, limit)
    monkeypatch.setattr(llama, "forward", limited)
    assert generate(llama, blocks, stop, budget=4000) == expected
    assert 1 <= limited.failures <= 8
    assert "out of memory: going on with" in caplog.text


def test_out_of_memory_with_one_prompt_is_told(llama, monkeypatch):
    monkeypatch.setattr(llama, "forward", OutOfMemory(llama, 33))
    with pytest.raises(InputError, match="single sequence"):
        generate(llama, make_blocks(), [0])
