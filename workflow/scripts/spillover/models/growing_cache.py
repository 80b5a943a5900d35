"""A cache of keys and values that grows in place.

transformers' own makes every layer's states anew for each token, a little larger each time. On a
GPU that is a copy of all of them a token; on a CPU the holes that are left behind are each too
small for what comes next, and memory grows to many times what is held.
"""

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

# Tokens that room is made for at a time.
STEP = 64


class GrowingLayer(DynamicLayer):
    """A layer whose states are views of room that is made many tokens at a time."""

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin without room."""
        super().lazy_initialization(key_states, value_states)
        self._room: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add states (rows, heads, tokens, dimensions); all states so far."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._added("keys", self.keys, key_states)
        self.values = self._added("values", self.values, value_states)
        return self.keys, self.values

    def _added(self, name: str, kept: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        length = kept.shape[-2] if kept.numel() else 0
        needed = length + new.shape[-2]
        room = self._room.get(name)
        if room is None or room.shape[-2] < needed:
            room = new.new_empty((*new.shape[:-2], -(-needed // STEP) * STEP, new.shape[-1]))
            if length:
                room[..., :length, :] = kept
            self._room[name] = room
        room[..., length:needed, :] = new
        return room[..., :needed, :]


def growing(cache: DynamicCache) -> DynamicCache:
    """A cache with the states of another, whose layers grow in place."""
    layers = []
    for layer in cache.layers:
        layers.append(GrowingLayer())
        layers[-1].update(layer.keys, layer.values)
    cache.layers = layers
    cache.layer_class_to_replicate = GrowingLayer
    return cache
