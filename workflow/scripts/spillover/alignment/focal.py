"""The focal weight of phi-DPO, put on TRL's own loss."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from trl.trainer import dpo_trainer


class _Functions:
    """torch.nn.functional with a logsigmoid that carries the weight."""

    def __init__(self, gamma: float):
        self.gamma = gamma

    def __getattr__(self, name: str):
        return getattr(torch.nn.functional, name)

    def logsigmoid(self, margin: torch.Tensor) -> torch.Tensor:
        # 1 - sigmoid(x) = sigmoid(-x); by its logarithm, for a gradient where it rounds to 0.
        weight = torch.exp(self.gamma * torch.nn.functional.logsigmoid(-margin))
        return weight * torch.nn.functional.logsigmoid(margin)


@contextmanager
def weighted(gamma: float) -> Iterator[None]:
    """Within it TRL's losses ``sigmoid`` and ``sigmoid_norm`` have a focal weight.

    A pair's loss is -(1 - p)^gamma log p with p = sigmoid(beta x margin): that of phi-DPO (arXiv
    2602.22601), after Lin et al. (2017). Gradients flow through the weight. TRL's loss sees
    another ``logsigmoid`` for as long, and nothing else changes; with gamma 0 nothing does. TRL
    also calls it for scores of the Jensen-Shannon divergence, which
    :func:`spillover.alignment.settings.check_objective` therefore refuses beside it.
    """
    if gamma == 0:
        yield
        return
    functions = dpo_trainer.F
    dpo_trainer.F = _Functions(gamma)
    try:
        yield
    finally:
        dpo_trainer.F = functions
