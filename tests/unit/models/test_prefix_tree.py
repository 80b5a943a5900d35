"""Prefix trees hold each distinct prefix once, and models compute the same on them."""

import numpy as np
import pytest
import tiny_models
import torch
from spillover.models import prefix_tree
from spillover.models.load import load_model
from spillover.scoring.trials import Trials

SEQUENCES = [(5, 6, 7, 8), (5, 6, 9), (5, 6, 7), (4, 6, 7, 8), (5, 6, 9)]


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def model(request, tmp_path_factory):
    folder = tiny_models.make(tmp_path_factory.mktemp("model"), request.param)
    return load_model(folder, "none", "float32", "cpu")


def plain_logits(model, sequence):
    with torch.inference_mode():
        return model(torch.tensor([sequence])).logits[0]


def test_a_tree_has_each_distinct_prefix_once():
    tree = prefix_tree.build(SEQUENCES)
    prefixes = {s[: i + 1] for s in SEQUENCES for i in range(len(s))}
    assert len(tree) == len(prefixes) == 9
    for path, sequence in zip(tree.paths, SEQUENCES, strict=True):
        assert tuple(tree.tokens[path]) == sequence
        assert list(tree.positions[path]) == list(range(len(sequence)))
    assert list(tree.paths[1]) == list(tree.paths[4])


def test_a_node_attends_to_itself_and_its_ancestors_only():
    tree = prefix_tree.build(SEQUENCES)
    mask = tree.attention_mask()
    for path in tree.paths:
        for i, node in enumerate(path):
            assert set(np.flatnonzero(mask[node])) == set(path[: i + 1])


def test_batches_keep_the_budget_and_every_index():
    sizes = [3, 4, 9, 1, 1, 5]
    found = list(prefix_tree.batches(sizes, 7))
    assert found == [[0, 1], [2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("sequences", "limit", "common"),
    [
        ([(1, 2, 3), (1, 2, 4)], 9, (1, 2)),
        ([(1, 2, 3), (1, 2, 3)], 2, (1, 2)),
        ([(1, 2, 3), (1, 2)], 9, (1, 2)),
        ([(1, 2), (1, 2, 3), (1, 5)], 9, (1,)),
        ([(1,), (2,)], 9, ()),
        ([], 9, ()),
    ],
)
def test_common_prefix(sequences, limit, common):
    assert prefix_tree.common_prefix(sequences, limit) == common


def test_a_row_of_trees_gives_the_logits_of_plain_passes(model):
    tree = prefix_tree.build(SEQUENCES)
    assert (tree.parents < 0).sum() == 2
    with torch.inference_mode():
        logits = prefix_tree.logits_at(model, tree, np.array([p[-1] for p in tree.paths]))
    for found, sequence in zip(logits, SEQUENCES, strict=True):
        assert torch.allclose(found, plain_logits(model, sequence)[-1], atol=1e-4)


@pytest.mark.parametrize("length", [0, 5])
def test_rows_behind_a_header_give_the_logits_of_plain_passes(model, length):
    header_tokens = list(range(10, 10 + length))
    trees = [prefix_tree.build(SEQUENCES[:3]), prefix_tree.build(SEQUENCES[3:4])]
    nodes = [np.unique(np.concatenate(tree.paths[:1])) for tree in trees]
    with torch.inference_mode():
        header = prefix_tree.read_header(model, header_tokens)
        for _ in range(2):  # a header is read once and used often
            logits = prefix_tree.logits_of_rows(model, trees, nodes, header)
    for found, sequence in zip(logits, [SEQUENCES[0], SEQUENCES[3]], strict=True):
        plain = plain_logits(model, [*header_tokens, *sequence])[length:]
        assert torch.allclose(found, plain, atol=1e-4)


def test_padded_sequences_give_the_logits_of_plain_passes(model):
    places = [np.array([0, len(sequence) - 1]) for sequence in SEQUENCES]
    with torch.inference_mode():
        logits = prefix_tree.logits_of_sequences(model, SEQUENCES, places)
    for found, sequence, place in zip(logits, SEQUENCES, places, strict=True):
        assert torch.allclose(found, plain_logits(model, sequence)[place], atol=1e-4)


def test_only_the_logits_that_are_read_are_computed(model):
    """The vocabulary's matrix sees as many tokens as are read, not as many as there are."""
    seen = []
    hook = model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[1])
    )
    tree = prefix_tree.build(SEQUENCES)
    with torch.inference_mode():
        prefix_tree.logits_at(model, tree, np.array([3, 5]))
        prefix_tree.logits_of_rows(model, [tree, tree], [np.array([3, 5]), np.array([1])])
        prefix_tree.logits_of_sequences(model, SEQUENCES, [np.array([2])] * len(SEQUENCES))
    hook.remove()
    assert seen == [2, 2, 1]


def test_a_model_that_takes_trees_is_recognised(model):
    assert Trials(model).share(40)


@pytest.mark.parametrize("ignored", ["attention_mask", "position_ids", "past_key_values"])
def test_a_model_that_ignores_part_of_a_tree_is_noticed(model, ignored):
    forward = model.forward
    try:
        model.forward = lambda **inputs: forward(**{**inputs, ignored: None})
        assert not Trials(model).share(16)
    finally:
        model.forward = forward


def test_a_model_that_refuses_trees_is_noticed(model):
    forward = model.forward

    def refuse(**inputs):
        if inputs.get("attention_mask") is not None:
            raise ValueError("masks of four dimensions are not supported")
        return forward(**inputs)

    try:
        model.forward = refuse
        assert not Trials(model).share(16)
    finally:
        model.forward = forward


@pytest.mark.parametrize("kind", ["nf4", "adapter", "nf4 with adapter", "bfloat16"])
def test_trees_work_quantised_and_with_an_adapter(tmp_path, kind):
    folder = tiny_models.make(tmp_path / "model", "llama")
    adapter = None
    if "adapter" in kind:
        adapter = save_adapter(folder, tmp_path / "adapter")
    quantization = "nf4" if "nf4" in kind else "none"
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    model = load_model(folder, quantization, dtype, "cpu", adapter)
    assert Trials(model).share(40)


def save_adapter(folder, path):
    from peft import LoraConfig, get_peft_model

    base = load_model(folder, "none", "float32", "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        adapted = get_peft_model(
            base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
        )
    adapted.save_pretrained(path)
    return path
