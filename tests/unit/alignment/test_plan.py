"""The plan's arithmetic against models that are really loaded and steps that are really made."""

import weakref

import pandas as pd
import pytest
import tiny_models
import torch
from peft import get_peft_model
from preferences import make_pairs
from spillover.alignment import memory, plan, terms, trainer
from spillover.alignment.encoding import encode
from spillover.alignment.settings import LORA, OBJECTIVE, TRAINING, lora_config, skeleton
from spillover.alignment.shared_prefix_dpo import SharedPrefixCollator, run_over_trees
from spillover.alignment.train import train
from spillover.models.load import load_model, load_tokenizer
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
    model = load_model(folder, quantization, "bfloat16", "cpu")
    loaded = tiny_models.loaded_bytes(model)
    assert (
        memory.weight_bytes(skeleton(folder, dtype="bfloat16"), quantization, "bfloat16") == loaded
    )


class Live(TorchDispatchMode):
    """Bytes of the tensors that operations made and that are still there, and their most.

    Parameters
    ----------
    before : tensors that were there before: an operation may return a view of one of them, as
        a linear layer transposes its weight.
    """

    def __init__(self, before):
        super().__init__()
        self.now = self.most = 0
        self.known = {tensor.untyped_storage()._cdata for tensor in before}

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
@pytest.mark.parametrize(
    ("quantization", "dtype"), [("none", "float32"), ("none", "bfloat16"), ("nf4", "bfloat16")]
)
def test_predicted_memory_is_within_15_percent(tmp_path, size, quantization, dtype):
    folder = tiny_models.make(tmp_path, "llama", **SIZES[size])
    predicted, measured = compare_memory(folder, quantization, dtype)
    assert predicted == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("quantization", "dtype"), [("none", "float32"), ("none", "bfloat16"), ("nf4", "bfloat16")]
)
def test_predicted_memory_of_smollm2_is_within_15_percent(smollm2, quantization, dtype):
    # Two items: many processors compute bfloat16 a hundred times slower than float32.
    predicted, measured = compare_memory(smollm2, quantization, dtype, n_items=2)
    assert predicted == pytest.approx(measured, rel=0.15)


def compare_memory(folder, quantization, dtype, n_items=8) -> tuple[int, int]:
    """Bytes of what a step needs beside the weights, which are exact: predicted, measured.

    Measured are the tensors that torch's operations make and hold, counted one by one, and
    not the process's resident memory: that has the libraries' own buffers in it, and what an
    allocator keeps of an earlier, larger peak.
    """
    pairs = make_pairs(n_items, "three_option")
    rows = encode(pairs, load_tokenizer(folder), max_length=1024)
    model = load_model(folder, quantization, dtype, "cpu")
    measured = measure_step(model, rows)
    counts = plan.count(
        pairs, folder, objective=OBJECTIVE, training=TRAINING, tokens_per_batch=10**6
    )
    assert counts["steps"] == 1
    predicted = memory.memory(
        folder,
        counts["tokens_at_once"],
        counts["answer_tokens_at_once"],
        lora=LORA,
        training=TRAINING,
        quantization=quantization,
        dtype=dtype,
        gradient_checkpointing=False,
        device="cpu",
    )
    return sum(predicted.values()) - predicted["weights"] - predicted["adapter"], measured


def measure_step(model, rows) -> int:
    """Most bytes that two steps over the rows' tree made and held: optimiser, pass, gradients.

    The optimiser's state is made at the end of the first step and is there throughout the
    second.
    """
    outputs = ("log_probs", "entropy", "mean_logits", "is_top1")
    add_fused_lm_head(model, outputs=outputs)
    model = get_peft_model(model, lora_config(LORA, model)).train()
    run_over_trees(model.get_base_model().base_model)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    batch = SharedPrefixCollator(model.config, 0)(rows)
    labels = batch["input_ids"].masked_fill(batch.pop("completion_mask") == 0, -100)
    with Live(model.parameters()) as live:
        for _ in range(2):
            output = model(**batch, labels=labels, fused_lm_head=True, use_cache=False)
            output.log_probs.sum().backward()
            del output
            optimizer.step()
            optimizer.zero_grad()
    return live.most


@pytest.mark.parametrize("n_texts", [2, 40])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predicted_memory_of_an_anchors_logits_is_within_15_percent(tmp_path, dtype, n_texts):
    # A vocabulary next to which the rest is small.
    folder = tiny_models.make(tmp_path, "llama", vocab_size=16384)
    contexts = [list(range(text, text + 12)) for text in range(n_texts)]
    rows = [{"sequences": [{"context": c, "start": 0, "answer": []}]} for c in contexts]
    n_read = 12 * n_texts
    assert terms.n_places(rows) == terms.n_tokens(rows, True) == n_read
    model = load_model(folder, dtype=dtype, device="cpu")
    model = get_peft_model(model, lora_config(LORA, model)).train()
    with Live(model.parameters()) as live:
        terms.Term("anchor_kl", rows, 1.0, n_texts, 0).total(model, rows, True).backward()
    settings = {"lora": LORA, "training": TRAINING, "quantization": "none", "dtype": dtype}
    predicted = memory.memory(
        folder, n_read, 0, **settings, gradient_checkpointing=False, device="cpu",
        n_read_tokens=n_read,
    )  # fmt: skip
    made = predicted["gradients"] + predicted["activations"] + predicted["head"]
    assert made == pytest.approx(live.most, rel=0.15)


def make_job(folder, **changes):
    """Forty items' pairs in one step on a tiny quantised model, unless told otherwise."""
    job = {"model": "tiny", "alignment": "age", "model_folder": folder}
    job |= {"pairs": make_pairs(40, "three_option"), "objective": {}, "lora": {}}
    job |= {"training": {"pairs_per_step": 80}, "quantization": "nf4", "dtype": "bfloat16"}
    return job | changes


def make_machine(gpu_memory=None, tokens_per_batch=None, device="auto"):
    return {
        "device": device,
        "gpu_memory": gpu_memory,
        "training_tokens_per_batch": tokens_per_batch,
    }


def test_the_largest_pass_that_fits_is_chosen(tmp_path):
    job = make_job(tiny_models.make(tmp_path, "llama"))
    settings = {"gradient_checkpointing": False}
    free, text = plan.plan([job], make_machine(), **settings)
    assert free["steps"].tolist() == [1]
    assert free["tokens_per_batch"].tolist() == [trainer.TOKENS_PER_BATCH["cuda"]]
    assert "80 pairs in 1 steps" in text
    enough = free["total"].item() / memory.GB / plan.USABLE
    roomy, _ = plan.plan([job], make_machine(enough * 1.01), **settings)
    tight, text = plan.plan([job], make_machine(enough * 0.7), **settings)
    none, text_none = plan.plan([job], make_machine(1e-6), **settings)
    assert roomy["fits"].item()
    assert tight["fits"].item()
    assert tight["tokens_at_once"].item() <= tight["tokens_per_batch"].item()
    assert tight["tokens_at_once"].item() < free["tokens_at_once"].item()
    assert not none["fits"].item()
    assert "does NOT fit" in text_none
    told, _ = plan.plan([job], make_machine(enough, 300), **settings)
    assert told["tokens_per_batch"].tolist() == [300]
    shares = ["weights", "adapter", "gradients", "optimizer", "activations", "head", "transient"]
    pd.testing.assert_series_equal(tight[shares].sum(axis=1), tight["total"], check_names=False)


def test_a_gpu_trains_with_what_was_planned_for_it(tmp_path, monkeypatch):
    job = make_job(tiny_models.make(tmp_path, "llama"))
    assert plan.passes(job, make_machine(1e-6, device="cpu")) == {"tokens_per_batch": None}
    monkeypatch.setattr("spillover.alignment.plan.resolve_device", torch.device)

    def passes(*machine):
        found = plan.passes(job, make_machine(*machine, device="cuda"))
        return found["tokens_per_batch"], found["gradient_checkpointing"]

    table, _ = plan.plan([job], make_machine(1e-6))
    assert table["gradient_checkpointing"].item()
    assert passes(1e-6) == (table["tokens_per_batch"].item(), True)
    assert passes(1e-6)[0] == min(plan.TOKENS_PER_BATCH)
    assert passes(1e-6, 300) == (300, True)
    assert passes(80) == (max(plan.TOKENS_PER_BATCH), False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (80e9, 80e9))
    assert passes(None) == (max(plan.TOKENS_PER_BATCH), False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1e3, 80e9))
    assert passes(None) == (min(plan.TOKENS_PER_BATCH), True)


def test_activations_are_computed_twice_only_where_they_do_not_fit(tmp_path):
    job = make_job(tiny_models.make(tmp_path, "llama"))
    kept = plan.choose(job, make_machine(80))
    assert not kept["gradient_checkpointing"]
    enough = kept["total"] / memory.GB / plan.USABLE
    assert not plan.choose(job, make_machine(enough * 1.001))["gradient_checkpointing"]
    twice = plan.choose(job, make_machine(enough * 1.001), gradient_checkpointing=True)
    assert twice["activations"] < kept["activations"]
    # Passes of half the tokens, and still none computed twice; then only smaller ones would do.
    smaller = plan.choose(job, make_machine(enough * 0.9))
    assert (smaller["tokens_per_batch"], smaller["gradient_checkpointing"]) in [
        (size, False) for size in plan.TOKENS_PER_BATCH if size < kept["tokens_at_once"]
    ] + [(size, True) for size in plan.TOKENS_PER_BATCH]
    assert smaller["total"] <= plan.USABLE * enough * 0.9 * memory.GB


@pytest.mark.parametrize(
    ("loss", "format"), [("sigmoid", "three_option"), ("sigmoid", "cloze"), ("aot", "cloze")]
)
def test_what_is_planned_is_what_runs(tmp_path, monkeypatch, loss, format):
    folder = tiny_models.make(tmp_path / "model", "llama")
    job = make_job(
        folder,
        pairs=make_pairs(13, format),
        objective={"loss": [loss]},
        training={"pairs_per_step": 12},
        quantization="none",
        dtype="float32",
    )
    table, _ = plan.plan([job], make_machine(None, 200))
    sizes = []
    collate = SharedPrefixCollator.__call__

    def remember(self, part):
        batch = collate(self, part)
        sizes.append(batch["tree"]["input_ids"].shape[1])
        return batch

    monkeypatch.setattr(SharedPrefixCollator, "__call__", remember)
    log = train(
        **{key: value for key, value in job.items() if key not in ("model", "alignment")},
        device="cpu",
        seed=0,
        checkpoints=tmp_path / "checkpoints",
        output=tmp_path / "adapter",
        tokens_per_batch=table["tokens_per_batch"].item(),
    )
    del sizes[0]  # of the trial before the first step
    assert len(log) == table["steps"].item() == 3
    assert log["tokens"].sum() == sum(sizes) == table["tokens"].item()
    assert max(sizes) == table["tokens_at_once"].item()
    # aot sorts a step's pairs against each other: it cannot be divided.
    assert (max(sizes) > 200) == (loss == "aot")
