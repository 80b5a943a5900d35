"""The plan's arithmetic against models that are really loaded and steps that are really made."""

import weakref

import pandas as pd
import pytest
import tiny_models
import torch
from preferences import make_pairs
from spillover import alignment, models, plan
from spillover.alignment_settings import LORA, TRAINING, lora_config, skeleton
from torch.utils._python_dispatch import TorchDispatchMode
from trl.trainer.utils import add_fused_lm_head

SIZES = {
    "small": {},
    "wide": {"hidden_size": 128, "intermediate_size": 256},
    "deep": {"num_hidden_layers": 5, "tie_word_embeddings": True},
}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("size", SIZES)
def test_weights_are_exact(tmp_path, size, quantization):
    folder = tiny_models.make(tmp_path, "llama", **SIZES[size])
    model = models.load(folder, quantization, "bfloat16", "cpu")
    loaded = 0
    for parameter in model.parameters():
        loaded += parameter.untyped_storage().nbytes()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            scales = (state.absmax, state.code, state.offset, state.state2.absmax)
            loaded += sum(x.nbytes for x in (*scales, state.state2.code))
    assert plan.weight_bytes(skeleton(folder), quantization, "bfloat16") == loaded


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still there, and their most."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple | list) else [output]:
            if isinstance(tensor, torch.Tensor):
                self.add(tensor.untyped_storage())
        return output

    def add(self, storage):
        key = storage._cdata
        if key not in self.known:
            self.known.add(key)
            self.now += storage.nbytes()
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self.remove, key, storage.nbytes())

    def remove(self, key, n_bytes):
        self.known.discard(key)
        self.now -= n_bytes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predicted_memory_is_within_15_percent(tmp_path, size, dtype):
    folder = tiny_models.make(tmp_path, "llama", **SIZES[size])
    rows = alignment.encode(
        make_pairs(8, "three_option"), models.load_tokenizer(folder), max_length=1024
    )
    model = models.load(folder, dtype=dtype, device="cpu")
    measured = measure_pass(model, rows)
    counts = plan.count(make_pairs(8, "three_option"), folder, TRAINING)
    assert counts["steps"] == 1
    predicted = plan.memory(
        folder,
        counts["tokens_per_step"],
        counts["answer_tokens_per_step"],
        lora=LORA,
        training=TRAINING,
        quantization="none",
        dtype=dtype,
        gradient_checkpointing=False,
        device="cpu",
    )
    share = predicted["gradients"] + predicted["activations"] + predicted["head"]
    assert share == pytest.approx(measured, rel=0.15)


def measure_pass(model, rows) -> int:
    """Most bytes that a forward and backward pass over the rows' tree made and held."""
    from peft import get_peft_model
    from spillover.shared_prefix_dpo import SharedPrefixCollator, run_over_trees

    outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
    add_fused_lm_head(model, outputs=outputs)
    model = get_peft_model(model, lora_config(LORA)).train()
    run_over_trees(model.get_base_model().base_model)
    batch = SharedPrefixCollator(model.config, 0)(rows)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    with Live() as live:
        loss = model(**batch, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum()
        loss.backward()
    return live.most


def test_the_largest_pass_that_fits_is_chosen(tmp_path):
    folder = tiny_models.make(tmp_path, "llama")
    job = {
        "model": "tiny",
        "alignment": "age",
        "model_folder": folder,
        "pairs": make_pairs(40, "three_option"),
        "lora": {},
        "training": {"pairs_per_step": 80},
        "quantization": "nf4",
        "dtype": "bfloat16",
    }
    free, text = plan.plan([job], None, gradient_checkpointing=False)
    assert free["steps"].tolist() == [1]
    assert "80 pairs in 1 steps" in text
    enough = free["total"].item() / plan.GB / plan.USABLE
    roomy, _ = plan.plan([job], enough * 1.01, gradient_checkpointing=False)
    tight, text = plan.plan([job], enough * 0.7, gradient_checkpointing=False)
    none, text_none = plan.plan([job], 1e-6, gradient_checkpointing=False)
    assert roomy["fits"].item()
    assert tight["fits"].item()
    assert tight["tokens_per_batch"].item() < free["tokens_per_step"].item()
    assert not none["fits"].item()
    assert "does NOT fit" in text_none
    shares = ["weights", "adapter", "gradients", "optimizer", "activations", "head", "transient"]
    pd.testing.assert_series_equal(tight[shares].sum(axis=1), tight["total"], check_names=False)
