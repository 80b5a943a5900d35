"""Training over prefix trees equals TRL's stock trainer."""

import datasets
import pandas as pd
import pytest
import tiny_models
import torch
from documented import documented
from preferences import make_pairs
from spillover.alignment.encoding import encode
from spillover.alignment.modules import without_noise
from spillover.alignment.settings import LORA, OBJECTIVE, TRAINING, lora_config
from spillover.alignment.shared_prefix_dpo import SharedPrefixCollator, obstacle
from spillover.alignment.train import training_log
from spillover.alignment.trainer import ItemSampler, SharedTrainer, StockTrainer, arguments
from spillover.models.architecture import backbone
from spillover.models.chat import TEMPLATE_SETTINGS
from spillover.models.load import load_model, load_tokenizer
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import DPOTrainer

OBJECTIVES = {
    "sigmoid": {"loss": ["sigmoid"]},
    "ipo": {"loss": ["ipo"]},
    "apo_zero": {"loss": ["apo_zero"]},
    "sigmoid+sft": {"loss": ["sigmoid", "sft"], "loss_weights": [1.0, 0.3]},
    "robust": {"loss": ["robust"], "label_smoothing": 0.1},
}


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def folder(request, tmp_path_factory):
    return tiny_models.make(tmp_path_factory.mktemp("model"), request.param)


class Stock(DPOTrainer):
    """TRL's trainer as it is, but for the order of pairs."""

    def _get_train_sampler(self, train_dataset=None):
        return ItemSampler(self.train_dataset["item_id"], self.args.seed)

    def _send_telemetry(self):
        pass


class Recorder(TrainerCallback):
    """The weights that each step begins with, and its gradients as the optimiser gets them.

    Parameters
    ----------
    begin_with : weights to put in the place of the trainer's own before each step.
    """

    def __init__(self, begin_with=None):
        self.begin_with = begin_with
        self.weights = []
        self.gradients = []

    def on_step_begin(self, args, state, control, model, **kwargs):
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if self.begin_with is not None:
            theirs = self.begin_with[state.global_step]
            assert theirs.keys() == trained.keys()
            for name, parameter in trained.items():
                parameter.data.copy_(theirs[name])
        self.weights.append({n: p.detach().clone() for n, p in trained.items()})

    def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        self.gradients.append(gradients)


def run(kind, folder, scratch, pairs, objective, tokens_per_batch=700, begin_with=None):
    """Ten steps; the log, and the weights before and the gradients of each."""
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, dtype="float32", device="cpu")
    without_noise(model)
    backbone(model)  # TRL asks Llama 4's text model for one that it has not
    recorder = Recorder(begin_with)
    settings = arguments(
        OBJECTIVE | objective,
        # No clipping: the gradients compared are those of the loss.
        TRAINING | {"pairs_per_step": 4, "learning_rate": 1e-3, "max_grad_norm": 1e9},
        seed=3,
        folder=scratch,
        device=torch.device("cpu"),
        gradient_checkpointing=False,
    )
    rows = encode(pairs, tokenizer, max_length=1024)
    extra = {"tokens_per_batch": tokens_per_batch}
    if kind is Stock:
        template = {"chat_template_kwargs": TEMPLATE_SETTINGS}
        rows = [row | template for row in pairs.to_dict("records")]
        extra = {}
    trainer = kind(
        model,
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora_config(LORA | {"dropout": 0.0}, model),
        callbacks=[recorder],
        **extra,
    )
    trainer.train()
    log = pd.DataFrame([entry for entry in trainer.state.log_history if "loss" in entry])
    return log, recorder


@pytest.mark.parametrize("format", ["cloze", "three_option", "two_option"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_ten_steps_equal_the_stock_trainers(folder, format, objective, tmp_path):
    pairs = make_pairs(20, format)
    settings = OBJECTIVES[objective]
    stock, theirs = run(Stock, folder, tmp_path, pairs, settings)
    # Adam divides a gradient by its size: where one is rounding and nothing else (a single
    # element here, 1e-8 for one trainer and -3e-9 for the other), it is a step all the same,
    # and IPO's gradients, about 15, carry it on: to more than 1e-4 in ten steps or not, as the
    # processor rounds. The stock trainer leaves itself by 5e-4 if lora_A begins one rounding
    # away. What can be equal to 1e-4 are loss and gradients at given weights: those that the
    # stock trainer's ten steps begin with.
    begin_with = theirs.weights if objective == "ipo" else None
    shared, ours = run(SharedTrainer, folder, tmp_path, pairs, settings, begin_with=begin_with)
    assert len(shared) == len(stock) == len(ours.gradients) == len(theirs.gradients) == 10
    # Relative where the loss is large: IPO begins at 25, where float32 has steps of 2e-6.
    assert ((shared["loss"] - stock["loss"]).abs() / stock["loss"].clip(lower=1)).max() < 1e-5
    for found, expected in zip(ours.gradients, theirs.gradients, strict=True):
        assert found.keys() == expected.keys()
        assert max((found[name] - expected[name]).abs().max() for name in expected) < 1e-4
    # The test would pass on zeros: training moved.
    assert shared["rewards/margins"].iloc[-1] != 0
    assert max(value.abs().max() for value in ours.gradients[-1].values()) > 1e-3


@pytest.mark.parametrize(
    "architecture",
    [
        name
        for name in tiny_models.ARCHITECTURES
        if documented(name, "shared in training") == {"shared in training": "yes"}
    ],
)
def test_loss_and_gradients_equal_the_stock_trainers(tiny_folder, tmp_path, architecture):
    """Routers' loss is in neither; windows, chunks and caps are in both."""
    folder, pairs = tiny_folder(architecture), make_pairs(4, "three_option")
    stock, theirs = run(Stock, folder, tmp_path, pairs, {})
    begin_with = theirs.weights
    shared, ours = run(SharedTrainer, folder, tmp_path, pairs, {}, begin_with=begin_with)
    assert (shared["loss"] - stock["loss"]).abs().max() < 1e-5
    for found, expected in zip(ours.gradients, theirs.gradients, strict=True):
        assert found.keys() == expected.keys()
        assert max((found[name] - expected[name]).abs().max() for name in expected) < 1e-4
    assert max(value.abs().max() for value in ours.gradients[-1].values()) > 1e-3


@pytest.mark.parametrize("kind", [SharedTrainer, StockTrainer])
@pytest.mark.parametrize("objective", ["sigmoid", "sigmoid+sft"])
def test_dividing_a_step_changes_nothing(kind, objective, tmp_path):
    folder = tiny_models.make(tmp_path / "model", "llama")
    # 19 pairs: the last step is smaller than the others and divides unevenly.
    pairs = make_pairs(10, "three_option")[:19]
    whole, _ = run(kind, folder, tmp_path, pairs, OBJECTIVES[objective], 10**6)
    parts, _ = run(kind, folder, tmp_path, pairs, OBJECTIVES[objective], 1)
    whole, parts = map(training_log, [whole.to_dict("records"), parts.to_dict("records")])
    pd.testing.assert_frame_equal(
        whole.drop(columns="tokens"), parts.drop(columns="tokens"), rtol=1e-4, atol=1e-6
    )
    assert whole["pairs"].tolist() == [4, 4, 4, 4, 3]


def test_a_tree_holds_each_beginning_once(tmp_path):
    config = AutoModelForCausalLM.from_pretrained(tiny_models.make(tmp_path, "llama")).config
    pairs = [
        {"prompt_ids": [5, 6, 7], "chosen_ids": [1, 9], "rejected_ids": [2, 9]},
        {"prompt_ids": [5, 6, 7], "chosen_ids": [1, 9], "rejected_ids": [3, 9]},
    ]
    batch = SharedPrefixCollator(config, pad_token_id=0)(pairs)
    # Nodes: 5 6 7, then 1, 2 and 3 behind 7. The nines are predicted and predict nothing.
    assert batch["tree"]["input_ids"].tolist() == [[5, 6, 7, 1, 2, 3]]
    assert batch["tree"]["position_ids"].tolist() == [[0, 1, 2, 3, 3, 3]]
    assert batch["tree"]["attention_mask"][0, 0, 4].tolist() == [True] * 3 + [False, True, False]
    assert batch["input_ids"].tolist() == [[7, 1, 9], [7, 1, 9], [7, 2, 9], [7, 3, 9]]
    assert batch["completion_mask"].tolist() == [[0, 1, 1]] * 4
    assert batch["nodes"][:, :2].tolist() == [[2, 3], [2, 3], [2, 4], [2, 5]]


def test_a_model_that_ignores_the_tree_is_found_out(folder, monkeypatch):
    model = load_model(folder, dtype="float32", device="cpu")
    rows = encode(make_pairs(2, "three_option"), load_tokenizer(folder), max_length=1024)
    assert obstacle(model, rows) is None
    forward = model.forward
    monkeypatch.setattr(
        model, "forward", lambda *args, attention_mask=None, **kwargs: forward(*args, **kwargs)
    )
    assert "differ" in obstacle(model, rows)
