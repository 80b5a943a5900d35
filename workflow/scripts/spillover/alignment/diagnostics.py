"""What training did to a model's answers, on pairs that it never saw."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from peft import PeftModel

from spillover.alignment.shared_prefix_dpo import obstacle, sequences_of, tree_of
from spillover.models import prefix_tree


def diagnose(
    model: PeftModel,
    pairs: Sequence[Mapping],
    letters: Sequence[int] | None = None,
    tokens_per_batch: int = 1024,
) -> pd.DataFrame:
    """Answers of the base and of the aligned model to held-out pairs.

    Parameters
    ----------
    model : with its adapter attached; the base is the same model with the adapter off.
    pairs : as :func:`spillover.alignment.encoding.encode` gives them, of held-out items, with
        correct preferences whatever those of training were.
    letters : tokens of A, B and C, for pairs that are answered by letter.

    Returns
    -------
    Two rows, ``run`` = ``base`` and ``aligned``:

    ``n_pairs``, ``ranking_accuracy`` : share of pairs whose chosen answer is likelier than
        the rejected one, without the reference (Chen et al. 2024, arXiv 2405.19534).
    ``logp_chosen``, ``logp_rejected`` : mean log-probability of the answers (nats).
    ``kl_to_base`` : KL divergence of the run's distribution of the answer's first token from
        the base's, over the whole vocabulary, mean over prompts (nats).
    ``probability_A``, ``_B``, ``_C`` : with ``letters`` only: mean probability of the answers'
        letters. Of prompts whose correct letters are balanced, a model without a favourite
        letter gives the same.
    """
    model.eval()
    sums: dict[str, list] = {"base": [], "aligned": []}
    share = obstacle(model, pairs) is None
    for part in parts_of(pairs, tokens_per_batch):
        with torch.no_grad():
            aligned = _answers(model, part, share)
            with model.disable_adapter():
                base = _answers(model, part, share)
        sums["aligned"].append((*aligned, _kl(aligned[2], base[2])))
        sums["base"].append((*base, _kl(base[2], base[2])))
    rows = []
    for run, batches in sums.items():
        chosen, rejected, first, kl = (torch.cat(parts) for parts in zip(*batches, strict=True))
        probability = first[:, letters].exp().mean(0).tolist() if letters else ()
        rows.append(
            {
                "run": run,
                "n_pairs": len(chosen),
                "ranking_accuracy": (chosen > rejected).double().mean().item(),
                "logp_chosen": chosen.mean().item(),
                "logp_rejected": rejected.mean().item(),
                "kl_to_base": kl.mean().item(),
                **{f"probability_{x}": p for x, p in zip("ABC", probability, strict=False)},
            }
        )
    return pd.DataFrame(rows)


def parts_of(pairs: Sequence[Mapping], tokens_per_batch: int = 1024) -> Iterator[list[Mapping]]:
    """Consecutive pairs whose trees have at most so many tokens together, at least one pair."""
    sizes = [len(tree_of([pair])) for pair in pairs]
    for part in prefix_tree.batches(sizes, tokens_per_batch):
        yield [pairs[i] for i in part]


def _answers(
    model, pairs: Sequence[Mapping], share: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probability of each pair's chosen and rejected answer, and of every first token."""
    if share:
        tree = tree_of(pairs)
        ends = [
            path[len(prompt) - 1 :]
            for (prompt, _), path in zip(sequences_of(pairs), tree.paths, strict=True)
        ]
        nodes, places = np.unique(np.concatenate(ends), return_inverse=True)
        logits = prefix_tree.logits_at(model, tree, nodes)
    else:
        contexts = [prompt + answer[:-1] for prompt, answer in sequences_of(pairs)]
        ends = [
            np.arange(len(prompt) - 1, len(context))
            for (prompt, _), context in zip(sequences_of(pairs), contexts, strict=True)
        ]
        logits = torch.cat(prefix_tree.logits_of_sequences(model, contexts, ends))
        places = slice(None)
    scores = logits.double().log_softmax(-1)[places].cpu()
    tokens = torch.tensor([token for _, answer in sequences_of(pairs) for token in answer])
    each = scores.gather(1, tokens[:, None])[:, 0]
    lengths = [len(answer) for _, answer in sequences_of(pairs)]
    total = torch.stack([part.sum() for part in each.split(lengths)])
    starts = np.cumsum([0, *lengths[:-1]])
    chosen, rejected = total.chunk(2)
    return chosen, rejected, scores[starts[: len(pairs)]]


def _kl(run: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    return (run.exp() * (run - base)).sum(-1)
