"""A cache that grows in place holds what transformers' own holds."""

import pytest
import torch
from spillover.models.growing_cache import STEP, GrowingLayer, growing
from transformers import DynamicCache


@pytest.mark.parametrize("first", [0, 5])
def test_states_are_those_of_a_dynamic_cache(first):
    generator = torch.Generator().manual_seed(0)

    def states(n: int) -> list[torch.Tensor]:
        return [torch.randn(2, 3, n, 4, generator=generator) for _ in range(2)]

    header = [tuple(part[:1].expand(2, -1, -1, -1) for part in states(first))] * bool(first)
    own, theirs = growing(DynamicCache(header)), DynamicCache(header)
    for n in (7, 1, 1, STEP, 3):
        new = states(n)
        for found, expected in zip(own.update(*new, 0), theirs.update(*new, 0), strict=True):
            assert torch.equal(found, expected)
    assert own.get_seq_length() == theirs.get_seq_length()
    assert all(isinstance(layer, GrowingLayer) for layer in own.layers)


def test_room_is_made_for_many_tokens_at_a_time():
    cache = growing(DynamicCache())
    places = set()
    for _ in range(2 * STEP):
        keys, _ = cache.update(torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), 0)
        places.add(keys.data_ptr())
    assert len(places) == 2
