"""TRL's DPOTrainer with steps of whole items, divided by tokens."""

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch.utils.data import Sampler
from trl import DPOConfig, DPOTrainer

from spillover.alignment import checkpoints as saved
from spillover.alignment import focal, terms
from spillover.alignment.shared_prefix_dpo import SharedPrefixDPOTrainer, sequences_of, tree_of
from spillover.core.errors import InputError, named
from spillover.models import prefix_tree
from spillover.models.architecture import backbone

logger = logging.getLogger(__name__)

# Losses that sort the pairs of a batch against each other: a step cannot be divided.
SORTED_LOSSES = {"aot", "aot_unpaired"}

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 8192}


class ItemSampler(Sampler):
    """Indices of pairs in an order that keeps the pairs of an item together.

    The order depends on the seed and the epoch alone: a run that goes on in the middle of an
    epoch sees the same pairs as one that was not disturbed.
    """

    def __init__(self, item_ids: Sequence[str], seed: int):
        self.pairs_of_item = list(
            pd.Series(range(len(item_ids))).groupby(list(item_ids)).indices.values()
        )
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(map(len, self.pairs_of_item))

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        for item in rng.permutation(len(self.pairs_of_item)):
            yield from self.pairs_of_item[item].tolist()


def arguments(
    objective: Mapping,
    training: Mapping,
    seed: int,
    folder: Path,
    device: torch.device,
    gradient_checkpointing: bool,
) -> DPOConfig:
    arguments = DPOConfig(
        output_dir=str(folder),
        loss_type=list(objective["loss"]),
        loss_weights=objective["loss_weights"],
        beta=objective["beta"],
        label_smoothing=objective["label_smoothing"],
        f_divergence_type=objective["f_divergence"],
        f_alpha_divergence_coef=objective["f_divergence_alpha"],
        discopop_tau=objective["discopop_tau"],
        num_train_epochs=training["epochs"],
        learning_rate=training["learning_rate"],
        per_device_train_batch_size=training["pairs_per_step"],
        max_length=training["max_length"],
        warmup_steps=training["warmup_ratio"],
        lr_scheduler_type=training["lr_scheduler"],
        optim=training["optimizer"],
        weight_decay=training["weight_decay"],
        max_grad_norm=training["max_grad_norm"],
        report_to=list(training["report_to"]) or "none",
        seed=seed,
        gradient_checkpointing=gradient_checkpointing,
        use_cpu=device.type == "cpu",
        # The base computes in its own dtype, as in evaluation; no autocast.
        bf16=False,
        disable_dropout=False,
        # A step is divided by the trainer below, not by gradient accumulation, whose parts
        # have a fixed number of pairs and the same weight whatever they hold.
        gradient_accumulation_steps=1,
        # The loss is DPO's alone, without that which balances the load of experts.
        router_aux_loss_coef=0.0,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        # _Checkpoints says when.
        save_strategy="no",
        disable_tqdm=True,
    )
    # One process trains on one GPU, however many are in sight.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


class _Steps:
    """For a DPOTrainer: steps of whole items that are divided by tokens.

    A batch of the data loader is the pairs of a step. What goes through the model at once is
    as many of them as fit into ``tokens_per_batch``; their losses are weighted by their number
    of pairs, so that loss and gradients of the step are the same however it is divided.

    Parameters
    ----------
    terms : what is added to the loss of each step's pairs; divided alike.
    focal_gamma : as in :func:`spillover.alignment.focal.weighted`.
    """

    # Whether sequences go through the model as prefix trees.
    shares: bool

    def __init__(
        self,
        model,
        *args,
        tokens_per_batch: int,
        terms: Sequence[terms.Term] = (),
        focal_gamma: float = 0.0,
        **kwargs,
    ):
        backbone(model)  # where TRL finds it too
        super().__init__(model, *args, **kwargs)
        self.tokens_per_batch = tokens_per_batch
        self.terms = terms
        self.focal_gamma = focal_gamma
        self.collate = self.data_collator
        self.data_collator = lambda pairs: {"pairs": pairs}
        # TRL makes the adapter of a quantised model bfloat16, in which an update smaller than
        # a 256th of a weight is lost; a restart would bring it back as float32 (PEFT).
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()

    def _prepare_dataset(self, dataset, *args):
        """The pairs are encoded already, as evaluation encodes them."""
        return dataset

    def _send_telemetry(self) -> None:
        """Nothing but the fetch rules touches the network."""

    def create_model_card(self, *args, **kwargs) -> None:
        """Checkpoints need no card."""

    def _get_train_sampler(self, train_dataset=None) -> ItemSampler:
        return ItemSampler(self.train_dataset["item_id"], self.args.seed)

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        pairs = inputs["pairs"]
        while True:
            parts = self.divide(pairs, self.loss_types, self.tokens_per_batch)
            begun = time.perf_counter()
            try:
                loss = self._accumulate(model, parts)
                break
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                passes = self._passes(parts)
                largest = max(map(sum, passes))
                smaller = min(self.tokens_per_batch, largest) // 2
                if max(map(len, passes)) == 1:
                    raise _out_of_memory(largest) from None
            self._metrics["train"].clear()
            model.zero_grad()
            clear_device_cache(garbage_collection=True)
            self.tokens_per_batch = smaller
            logger.warning("out of memory; %d tokens at once from here on", self.tokens_per_batch)
        self._check_finite(loss, pairs)  # which waits for a GPU to be done
        seconds = time.perf_counter() - begun
        # Trackers see them too, and checkpoints keep them for a run that goes on.
        metrics = self._metrics["train"]
        metrics["seconds"] = [seconds]
        for what in ("pairs", "tokens"):
            metrics[f"{what}_per_second"] = [metrics[what][0] / seconds]
        return loss

    @classmethod
    def divide(
        cls, pairs: list[dict], losses: Sequence[str], tokens_per_batch: int
    ) -> list[list[dict]]:
        """Parts of a step that go through the model at once.

        Each has at most ``tokens_per_batch`` tokens, or is of a single item (pair, where
        nothing is shared); if the losses do not allow a step to be divided, it stays whole.
        """
        if not _divisible(pairs, losses):
            return [pairs]
        units = cls._units(pairs)
        return [
            [pair for i in part for pair in units[i]]
            for part in prefix_tree.batches([cls._size(unit) for unit in units], tokens_per_batch)
        ]

    def _passes(self, parts: list[list[dict]]) -> list[list[int]]:
        """Of each forward pass of a step the tokens of what it can be divided into."""
        passes = [[self._size(unit) for unit in self._units(part)] for part in parts]
        if not _divisible([pair for part in parts for pair in part], self.loss_types):
            passes = [[sum(sizes)] for sizes in passes]
        return passes + [
            [terms.n_tokens([row], self.shares) for row in rows]
            for term in self.terms
            for rows in self._divided(term)
        ]

    def _divided(self, term: terms.Term) -> list[list[Mapping]]:
        """A step's examples of a term, as parts that go through the model at once."""
        rows = term.of_step(self.state.global_step)
        return list(terms.divide(rows, self.tokens_per_batch, self.shares))

    def _accumulate(self, model, parts: list[list[dict]]) -> torch.Tensor:
        """Loss of a step; its gradients are added up part by part."""
        n_pairs = sum(map(len, parts))
        total, n_tokens = 0.0, 0
        for part in parts:
            inputs = self.collate(part)
            n_tokens += int(inputs["attention_mask"].sum())
            self.weight = len(part) / n_pairs
            total += super().training_step(model, inputs)
        metrics = self._metrics["train"]
        weights = [len(part) / n_pairs for part in parts]
        for name, values in metrics.items():
            if len(values) == len(parts):
                metrics[name] = [math.fsum(np.multiply(weights, values))]
        for term in self.terms:
            value = self._accumulate_term(model, term)
            metrics[term.name] = [value]
            total += term.weight * value
            n_tokens += sum(terms.n_tokens(rows, self.shares) for rows in self._divided(term))
        metrics["pairs"] = [n_pairs]
        metrics["tokens"] = [n_tokens]
        return total

    def _accumulate_term(self, model, term: terms.Term) -> float:
        """A term's mean over a step's places; its gradients are added to those of the pairs."""
        parts = self._divided(term)
        n_places = sum(map(terms.n_places, parts))
        value = 0.0
        for rows in parts:
            mean = term.total(model, rows, self.shares) / n_places
            self.accelerator.backward(term.weight * mean)
            value += mean.item()
        return value

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        with focal.weighted(self.focal_gamma):
            return self.weight * super().compute_loss(model, inputs, return_outputs)

    def check_log_probabilities(self, pair: dict) -> None:
        """Refuse an architecture whose answers TRL does not score as the model itself does.

        TRL computes them around the model's own forward pass, from what it knows of scales and
        caps of logits.
        """
        name = type(self.model.get_base_model()).__name__
        training = self.model.training
        self.model.eval()
        try:
            found, expected = self._both_ways(pair)
        except Exception as error:  # whatever an architecture wants beside TRL's arguments
            if should_reduce_batch_size(error):
                raise _out_of_memory(self._size([pair])) from None
            raise InputError(f"{name} cannot be trained: {named(error)}") from error
        self.model.train(training)
        difference = ((found - expected).abs() / expected.abs().clamp(min=1)).max().item()
        tolerance = 1e-3 if self.model.dtype == torch.float32 else 0.1
        if difference > tolerance:
            raise InputError(
                f"{name} cannot be trained: TRL's log-probabilities of an answer are off by "
                f"{difference:.2g} of the model's own (of a head, it knows a matrix, scale and cap)"
            )

    def _both_ways(self, pair: dict) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probability of the chosen and of the rejected answer: TRL's, the model's own."""
        inputs = self._prepare_inputs(self.collate([pair]))
        completion = inputs.pop("completion_mask")
        labels = inputs["input_ids"].masked_fill(completion == 0, -100)
        with torch.no_grad():
            found = self.model(**inputs, labels=labels, use_cache=False, fused_lm_head=True)
            found = found.log_probs.sum(1)
            expected = []
            for prompt, answer in sequences_of([pair]):
                ids = torch.tensor([prompt + answer], device=found.device)
                logits = self.model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
                scores = logits.float().log_softmax(-1).gather(1, ids[0, len(prompt) :, None])
                expected.append(scores.sum())
        return found, torch.stack(expected)

    def _check_finite(self, loss: torch.Tensor, pairs: list[dict]) -> None:
        """Stop before a gradient that is not finite reaches the weights."""
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        if math.isfinite(loss) and all(g.isfinite().all() for g in gradients):
            return
        items = ", ".join(dict.fromkeys(pair["item_id"] for pair in pairs))
        last = saved.last(Path(self.args.output_dir))
        raise InputError(
            f"training: loss {float(loss)} or its gradient is not finite at step "
            f"{self.state.global_step + 1} (pairs of {items}); the last good checkpoint is "
            f"{last or 'none'}; lower training.learning_rate or objective.beta"
        )


class StockTrainer(_Steps, DPOTrainer):
    """Each sequence by itself."""

    shares = False

    @staticmethod
    def _units(pairs: list[dict]) -> list[list[dict]]:
        return [[pair] for pair in pairs]

    @staticmethod
    def _size(unit: list[dict]) -> int:
        return sum(map(_n_tokens, unit))


class SharedTrainer(_Steps, SharedPrefixDPOTrainer):
    """The pairs of an item, which share most of their tokens, in one tree."""

    shares = True

    @staticmethod
    def _units(pairs: list[dict]) -> list[list[dict]]:
        items = {}
        for pair in pairs:
            items.setdefault(pair["item_id"], []).append(pair)
        return list(items.values())

    @staticmethod
    def _size(unit: list[dict]) -> int:
        return len(tree_of(unit))


def _divisible(pairs: Sequence[Mapping], losses: Sequence[str]) -> bool:
    """Whether the losses of parts, weighted by their pairs, add up to that of the step."""
    if SORTED_LOSSES & set(losses):
        return False
    # A mean over tokens: only if all chosen answers are as long.
    return "sft" not in losses or len({len(pair["chosen_ids"]) for pair in pairs}) == 1


def _out_of_memory(n_tokens: int) -> InputError:
    return InputError(
        f"out of memory with {n_tokens} tokens in one forward pass, the fewest that this "
        "objective and these pairs allow; use a GPU with more memory, quantization: nf4 or a "
        "smaller model, or set machine.gpu_memory to less than is free, for activations to be "
        "computed twice"
    )


def _n_tokens(pair: Mapping) -> int:
    """Tokens of a pair's two sequences."""
    answers = max(len(pair["chosen_ids"]), len(pair["rejected_ids"]))
    return 2 * (len(pair["prompt_ids"]) + answers)
