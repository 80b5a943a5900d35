"""What the objective adds to the loss of the pairs: terms on sequences that are not of them.

The KL divergence from the base on other prompts or texts (anchor), and the likelihood of the
base's own answers to other prompts (replay).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint

from spillover.alignment.encoding import encode_anchor, encode_replay
from spillover.alignment.settings import TERMS, complete
from spillover.core.errors import InputError
from spillover.models import prefix_tree

# Places whose logits are turned to float32 at once: bounds memory for large vocabularies.
PLACES_AT_ONCE = 256


@dataclass(frozen=True)
class Term:
    """A term, and the examples that it is taken over.

    Attributes
    ----------
    name : its column in the training log: ``anchor_kl`` or ``replay_loss``.
    rows : examples, as :mod:`spillover.alignment.encoding` gives them: of each its
        ``sequences``, and of a sequence what goes through the model (``context``), the first
        place that is read (``start``) and, for a likelihood, the token to predict at each place
        (``answer``).
    weight : what the mean is multiplied by before it is added to the loss.
    per_step : examples of a step.
    seed : of their order.
    """

    name: str
    rows: Sequence[Mapping]
    weight: float
    per_step: int
    seed: int

    def of_step(self, step: int) -> list[Mapping]:
        """The examples of a step (from 0 on): all of them in a random order, and again.

        They depend on seed and step alone, so that a training that goes on sees the same.
        """
        first = step * self.per_step
        places = [divmod(n, len(self.rows)) for n in range(first, first + self.per_step)]
        orders = {turn: self._order(turn) for turn in {turn for turn, _ in places}}
        return [self.rows[orders[turn][place]] for turn, place in places]

    def _order(self, turn: int) -> np.ndarray:
        # The third number keeps it apart from the order of pairs.
        rng = np.random.default_rng([self.seed, turn, 1])
        return rng.permutation(len(self.rows))

    def total(self, model: PeftModel, rows: Sequence[Mapping], share: bool) -> torch.Tensor:
        """The term's sum over the places that are read of some examples, without its weight.

        Parameters
        ----------
        share : whether the examples go through the model as one prefix tree.
        """
        reading = _Reading.of(rows, share)
        logits = reading.logits(model)
        if self.name == "replay_loss":
            places, tokens = reading.answers()
            return _in_parts(_surprise, logits[places], tokens.to(logits.device)).sum()
        with torch.no_grad(), model.disable_adapter():
            base = reading.logits(model)
        times = torch.from_numpy(reading.times).to(logits.device)
        return (times * _in_parts(_divergence, logits, base)).sum()


def terms_of(
    objective: Mapping,
    training: Mapping,
    tokenizer,
    anchor: pd.DataFrame | None,
    replay: pd.DataFrame | None,
    seed: int,
) -> list[Term]:
    """The terms of an objective, each over as many examples a step as a step has items of pairs.

    Parameters
    ----------
    objective, training : with their defaults.
    anchor, replay : see :func:`spillover.alignment.encoding.encode_anchor`, ``encode_replay``.

    Raises
    ------
    InputError
        If a term has no examples, there are examples of no term, or one cannot be encoded.
    """
    kinds = {
        "anchor": ("anchor_kl", anchor, encode_anchor),
        "replay": ("replay_loss", replay, encode_replay),
    }
    found = []
    for key, (name, table, encode) in kinds.items():
        if (objective[key] is None) != (table is None):
            what = "examples" if table is None else "no examples"
            raise InputError(f"objective.{key}: {objective[key]} goes with {what}")
        if table is None:
            continue
        if table.empty:
            raise InputError(f"objective.{key}: expected examples, found none")
        settings = complete(objective[key], TERMS[key], f"objective.{key}")
        rows = encode(table, tokenizer, training["max_length"])
        per_step = max(training["pairs_per_step"] // 2, 1)
        found.append(Term(name, rows, settings["weight"], per_step, seed))
    return found


def n_places(rows: Sequence[Mapping]) -> int:
    """At how many places of some examples' sequences the model is read."""
    return sum(len(s["context"]) - s["start"] for row in rows for s in row["sequences"])


def n_tokens(rows: Sequence[Mapping], share: bool) -> int:
    """Tokens of a pass over some examples."""
    contexts = [s["context"] for row in rows for s in row["sequences"]]
    return len(prefix_tree.build(contexts)) if share else sum(map(len, contexts))


def divide(rows: Sequence[Mapping], tokens_per_batch: int, share: bool) -> Iterator[list[Mapping]]:
    """Parts of a step's examples that go through the model at once, as the pairs' do."""
    for part in prefix_tree.batches([n_tokens([row], share) for row in rows], tokens_per_batch):
        yield [rows[i] for i in part]


@dataclass(frozen=True)
class _Reading:
    """Sequences of some examples, and where the model is read on them.

    Attributes
    ----------
    tree : their prefix tree; None if each runs by itself.
    read : of the tree its nodes, or of each sequence its places, that are read; each once.
    times : how many of the sequences' places each one read stands for.
    where : for each of the sequences' places, in order, which of those read it is.
    """

    sequences: Sequence[Mapping]
    tree: prefix_tree.PrefixTree | None
    read: np.ndarray | list[np.ndarray]
    times: np.ndarray
    where: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Mapping], share: bool) -> "_Reading":
        sequences = [s for row in rows for s in row["sequences"]]
        if not share:
            read = [np.arange(s["start"], len(s["context"])) for s in sequences]
            n = sum(map(len, read))
            return cls(sequences, None, read, np.ones(n, dtype=int), np.arange(n))
        tree = prefix_tree.build([s["context"] for s in sequences])
        nodes = [path[s["start"] :] for s, path in zip(sequences, tree.paths, strict=True)]
        read, where, times = np.unique(
            np.concatenate(nodes), return_inverse=True, return_counts=True
        )
        return cls(sequences, tree, read, times, where)

    def logits(self, model: torch.nn.Module) -> torch.Tensor:
        """Logits at the places that are read, (places, vocabulary)."""
        if self.tree is not None:
            return prefix_tree.logits_at(model, self.tree, self.read)
        contexts = [s["context"] for s in self.sequences]
        return torch.cat(prefix_tree.logits_of_sequences(model, contexts, self.read))

    def answers(self) -> tuple[torch.Tensor, torch.Tensor]:
        """For each of the sequences' places which one read it is, and the token to predict."""
        tokens = [token for s in self.sequences for token in s["answer"]]
        return torch.from_numpy(self.where), torch.tensor(tokens)


def _in_parts(value, *tensors: torch.Tensor) -> torch.Tensor:
    """A value a row, some rows at a time; what is in between is computed again for gradients."""
    parts = zip(*(tensor.split(PLACES_AT_ONCE) for tensor in tensors), strict=True)
    return torch.cat(
        [checkpoint(value, *part, use_reentrant=False, preserve_rng_state=False) for part in parts]
    )


def _divergence(logits: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """KL(policy || base) of each row over the whole vocabulary (nats)."""
    policy, base = (x.float().log_softmax(-1) for x in (logits, base))
    return (policy.exp() * (policy - base)).sum(-1)


def _surprise(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """-log p of each row's token (nats)."""
    return torch.nn.functional.cross_entropy(logits.float(), tokens, reduction="none")
