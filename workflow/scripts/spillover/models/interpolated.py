"""A model at a strength of its alignment: base and aligned logits, interpolated at each token.

Decoding-time realignment (DeRa; Liu et al. 2024, arXiv 2402.02992)::

    logits = base + strength * (aligned - base)

Strength 0 is the base, 1 the model as it was aligned. What lies between and beyond stands for
a model that was aligned with another weight of the KL term, beta / strength, without training
one: exactly so for a whole sequence, as an approximation token by token.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from transformers import DynamicCache, GenerationConfig, PreTrainedConfig
from transformers.generation.utils import ALL_CACHE_NAMES
from transformers.modeling_outputs import CausalLMOutputWithPast

from spillover.core.errors import InputError
from spillover.models.adapters import attach

WEAKEST, STRONGEST = 0.0, 2.0


def check_strength(strength: float) -> None:
    """Refuse a strength that is not from 0 to 2.

    Raises
    ------
    InputError
        If it is outside, or no number.
    """
    if not WEAKEST <= strength <= STRONGEST:
        raise InputError(
            f"strength: expected a number from {WEAKEST:g} to {STRONGEST:g}, found {strength}"
        )


def attach_at(model: torch.nn.Module, folder: str | Path, strength: float) -> "Interpolated":
    """The model with a folder's adapter at a strength.

    Raises
    ------
    InputError
        If the strength is not from 0 to 2, or the adapter is not whole (see
        :func:`spillover.models.adapters.attach`), cannot be switched off, or changes weights
        of the base, as trained biases and some ways to start an adapter (PiSSA, OLoRA) do.
    """
    weights = [(parameter, _sum(parameter)) for parameter in model.parameters()]
    adapted = attach(model, folder)
    kept = {id(parameter) for parameter in adapted.parameters()}
    for parameter, before in weights:
        if id(parameter) not in kept or not torch.equal(_sum(parameter), before):
            raise InputError(
                f"{folder}: strength: the adapter changes weights of its base, which is gone with "
                "the adapter off; expected one with bias: none that starts at its base"
            )
    return Interpolated(adapted, strength)


def _sum(parameter: torch.nn.Parameter) -> torch.Tensor:
    return parameter.detach().sum(dtype=torch.float64)


class Interpolated(torch.nn.Module):
    """A causal model of two: an adapted one with its adapter off, and on.

    A pass is one of each over the same tokens. Logits are in the dtype of the model.

    Parameters
    ----------
    adapted : a base with its adapter attached, not merged, in evaluation mode.
    strength : from 0, the base, to 2.

    Raises
    ------
    InputError
        If the strength is outside, or the adapter is of a kind that adds tokens (prompt
        tuning) rather than something to the base's layers.
    """

    def __init__(self, adapted: PeftModel, strength: float):
        check_strength(strength)
        if not isinstance(adapted.base_model, BaseTuner):
            kind = type(adapted.active_peft_config).__name__
            raise InputError(
                f"strength: expected an adapter of a model's layers, such as LoRA, found {kind}"
            )
        super().__init__()
        self.adapted = adapted
        self.strength = strength
        kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
        self._switches = [module for module in adapted.modules() if isinstance(module, kinds)]

    @property
    def config(self) -> PreTrainedConfig:
        return self.adapted.config

    @property
    def device(self) -> torch.device:
        return self.adapted.device

    @property
    def dtype(self) -> torch.dtype:
        return self.adapted.dtype

    @property
    def generation_config(self) -> GenerationConfig:
        return self.adapted.get_base_model().generation_config

    @generation_config.setter
    def generation_config(self, settings: GenerationConfig) -> None:
        self.adapted.get_base_model().generation_config = settings

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.adapted.get_input_embeddings()

    def forward(
        self,
        input_ids: torch.Tensor,
        past_key_values: DynamicCache | None = None,
        **inputs,
    ) -> CausalLMOutputWithPast:
        """Interpolated logits.

        Parameters
        ----------
        past_key_values : an empty cache, or one that such a model filled. It holds the layers
            of both, the base's first, and whoever keeps or expands it need not know.
        inputs : what else a causal model of transformers takes.

        Raises
        ------
        ValueError
            If the cache was made for one model.
        """
        inputs["input_ids"] = input_ids
        if past_key_values is None:
            with self._adapter_off():
                base = self.adapted(**inputs).logits
            return CausalLMOutputWithPast(logits=self._between(base, self.adapted(**inputs).logits))
        caches = _halves(past_key_values)
        with self._adapter_off():
            base = self.adapted(past_key_values=caches[0], **inputs).logits
        aligned = self.adapted(past_key_values=caches[1], **inputs).logits
        past_key_values.layers = caches[0].layers + caches[1].layers
        return CausalLMOutputWithPast(
            logits=self._between(base, aligned), past_key_values=past_key_values
        )

    def generate(self, **settings) -> torch.Tensor:
        """What transformers' ``generate`` gives for the interpolated logits.

        It is the aligned model's, which knows how its architecture is continued. Before each
        of its passes goes one of the base, with states of its own.
        """
        model = self.adapted.get_base_model()
        beside = _BaseBeside(self)
        hooks = (
            model.register_forward_pre_hook(beside.before, with_kwargs=True),
            model.register_forward_hook(beside.after),
        )
        try:
            return self.adapted.generate(**settings)
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _adapter_off(self) -> Iterator[None]:
        """The base alone, to the bit.

        PEFT's ``disable_adapter`` sets the same flags, but first looks through all modules for
        what state they are in, and sets which parameters have gradients: with 210 layers as
        long as a fifth of a pass over one token.
        """
        try:
            for module in self._switches:
                module._disable_adapters = True
            yield
        finally:
            for module in self._switches:
                module._disable_adapters = False

    def _between(self, base: torch.Tensor, aligned: torch.Tensor) -> torch.Tensor:
        """The interpolation, exact at strength 0 and 1, rounded once."""
        return torch.lerp(base, aligned, self.strength)


class _BaseBeside:
    """Hooks of an aligned model's passes that run its base first, and interpolate."""

    def __init__(self, interpolated: Interpolated):
        self.interpolated = interpolated
        self.states: dict | None = None
        self.logits: torch.Tensor | None = None

    def before(self, model: torch.nn.Module, args: tuple, inputs: dict) -> None:
        given = {name: inputs[name] for name in ALL_CACHE_NAMES if inputs.get(name) is not None}
        if self.states is None:  # nothing is in them yet
            self.states = copy.deepcopy(given)
        if given.keys() != self.states.keys():
            raise InputError(
                f"{type(model).__name__} cannot generate at a strength: its states go by other "
                "names in than out"
            )
        with self.interpolated._adapter_off():
            # Not a call of the model, which would come back here.
            base = model.forward(*args, **(inputs | self.states))
        self.states |= {name: base[name] for name in ALL_CACHE_NAMES if base.get(name) is not None}
        self.logits = base.logits

    def after(self, model: torch.nn.Module, args: tuple, output) -> None:
        output.logits = self.interpolated._between(self.logits, output.logits)


def _halves(cache: DynamicCache) -> tuple[DynamicCache, DynamicCache]:
    """Caches of the base and of the aligned model, of the layers that one holds."""
    middle, odd = divmod(len(cache.layers), 2)
    if odd or not all(layer.is_initialized for layer in cache.layers):
        raise ValueError("expected an empty cache, or one that an interpolated model filled")
    halves = DynamicCache(), DynamicCache()
    halves[0].layers, halves[1].layers = cache.layers[:middle], cache.layers[middle:]
    return halves
