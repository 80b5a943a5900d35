"""DPO in which sequences that begin alike go through the model once.

The two sequences of a preference pair share their prompt, and so do the pairs of one item.
TRL's trainer runs each sequence by itself, for the policy and for the reference. Here the
distinct beginnings of a batch form a prefix tree, which runs once for each of the two.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from peft import PeftModel
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel
from trl import DPOTrainer

from spillover.models import prefix_tree

# Largest difference between the answers' log-probabilities over a tree and by themselves
# (nats), and in a dtype of few digits, of their logits relative to these.
TOLERANCE = {torch.float32: 1e-3}
ROUNDED_TOLERANCE = 0.1


@dataclass
class SharedPrefixCollator:
    """Batch of preference pairs in which each distinct beginning occurs once.

    TRL's loss reads ``input_ids`` and ``completion_mask`` at the answers' tokens only: they
    hold each sequence from the last token of its prompt, chosen before rejected, (2 x pairs,
    1 + longest answer). What the model runs over is in ``tree``, the arguments of a forward
    pass; ``nodes`` says where in it each of the tokens stands. ``attention_mask`` is there to
    be counted: one for each token that runs.

    Parameters
    ----------
    config : of the model, for the kinds of attention its layers have.
    pad_token_id : what stands behind the shorter answers; it is masked.
    """

    config: PreTrainedConfig
    pad_token_id: int

    def __call__(self, pairs: Sequence[Mapping]) -> dict:
        sequences = sequences_of(pairs)
        tree = tree_of(pairs)
        answers = [torch.tensor([prompt[-1], *answer]) for prompt, answer in sequences]
        nodes = [
            torch.from_numpy(path[len(prompt) - 1 :])
            for (prompt, _), path in zip(sequences, tree.paths, strict=True)
        ]
        ends = [torch.tensor([0] + [1] * len(answer)) for _, answer in sequences]
        input_ids = pad_sequence(answers, True, self.pad_token_id)
        # The last token of an answer is predicted and predicts nothing: it has no node.
        nodes = torch.nn.functional.pad(pad_sequence(nodes, True), (0, 1))
        return {
            "input_ids": input_ids,
            "completion_mask": pad_sequence(ends, True),
            "attention_mask": torch.ones(1, len(tree), dtype=torch.long),
            "tree": prefix_tree.model_inputs(self.config, tree, torch.device("cpu")),
            "nodes": nodes,
        }


def sequences_of(pairs: Sequence[Mapping]) -> list[tuple[list[int], list[int]]]:
    """(prompt, answer) of each pair's chosen sequence, then of each pair's rejected one."""
    return [
        (pair["prompt_ids"], pair[side])
        for side in ("chosen_ids", "rejected_ids")
        for pair in pairs
    ]


def tree_of(pairs: Sequence[Mapping]) -> prefix_tree.PrefixTree:
    """Prefix tree of the sequences of pairs, each without its last token."""
    return prefix_tree.build([prompt + answer[:-1] for prompt, answer in sequences_of(pairs)])


class SharedPrefixDPOTrainer(DPOTrainer):
    """TRL's DPOTrainer over prefix trees: the same loss and gradients, fewer tokens.

    Everything from the answers' hidden states on is TRL's own: the output head, the reference
    with the adapter off, all losses, the metrics. Only the model's backbone is called
    otherwise: over the batch's tree instead of over padded sequences.

    Dropout in the adapter is drawn a token of the tree: sequences share it where they share a
    beginning.
    """

    def __init__(self, model, args=None, train_dataset=None, processing_class=None, **kwargs):
        collator = SharedPrefixCollator(model.config, processing_class.pad_token_id)
        super().__init__(
            model,
            args=args,
            data_collator=collator,
            train_dataset=train_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        run_over_trees(base.base_model)


def run_over_trees(backbone: PreTrainedModel) -> None:
    """Let a backbone take ``tree`` and ``nodes`` instead of padded sequences.

    It then runs over the tree and returns the hidden states of ``nodes``, (sequences, tokens,
    hidden size). Without ``tree`` it is called as before.
    """
    forward = backbone.forward

    @functools.wraps(forward)
    def over_tree(*args, tree=None, nodes=None, **kwargs):
        if tree is None:
            return forward(*args, **kwargs)
        output = forward(*args, **(kwargs | tree))
        output.last_hidden_state = output.last_hidden_state[0][nodes]
        return output

    backbone.forward = over_tree


def obstacle(model: PreTrainedModel, pairs: Sequence[Mapping]) -> str | None:
    """Why a model cannot be trained over prefix trees; None if it can.

    The architecture is not asked for its name: the answers of two pairs, one of them the
    longest, are scored over their tree and by themselves.

    Parameters
    ----------
    pairs : with ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``.
    """
    pairs = [pairs[0], max(pairs, key=lambda pair: len(tree_of([pair])))]
    sequences = sequences_of(pairs)
    tree = tree_of(pairs)
    try:
        with torch.no_grad():
            shared = prefix_tree.logits_at(model, tree, [path[-1] for path in tree.paths])
            single = torch.stack(
                [
                    model(torch.tensor([prompt + answer[:-1]], device=model.device)).logits[0, -1]
                    for prompt, answer in sequences
                ]
            )
    except Exception as error:  # whatever an architecture that has no such arguments raises
        return f"{type(error).__name__}: {error}"
    if model.dtype in TOLERANCE:
        difference = (shared.log_softmax(-1) - single.log_softmax(-1)).abs().max()
        tolerance = TOLERANCE[model.dtype]
    else:
        centred = single.float() - single.float().mean(-1, keepdim=True)
        difference = (shared.float() - single.float()).norm() / centred.norm()
        tolerance = ROUNDED_TOLERANCE
    if not difference <= tolerance:
        return f"its answers over a tree differ from those by themselves by {difference:.2g}"
    return None
