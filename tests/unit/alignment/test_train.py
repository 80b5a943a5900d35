"""The DPO trainer: exact, restartable, refusing what does not fit."""

import json
import logging
import shutil

import datasets
import numpy as np
import pytest
import torch
from peft import PeftModel
from preferences import make_pairs
from spillover.alignment import settings, trainer
from spillover.alignment.encoding import encode
from spillover.alignment.settings import LORA, LOSSES, TRAINING
from spillover.alignment.train import _Progress
from spillover.core.errors import InputError
from spillover.models.chat import TEMPLATE_SETTINGS
from spillover.models.load import load_model, load_tokenizer
from spillover.models.tokens import encode_chat, letter_tokens
from tiny_training import train, weights
from trl import DPOConfig, DPOTrainer


def test_adapter_loads_with_peft_and_has_learnt(folder, tmp_path):
    log = train(folder, tmp_path, training={"epochs": 4})
    assert log["step"].tolist() == list(range(1, 9))
    assert log["pairs"].eq(4).all()
    assert log["loss"].iloc[0] == pytest.approx(np.log(2), abs=1e-6)
    assert log["reward_margin"].iloc[-2:].mean() > log["reward_margin"].iloc[:2].mean()
    base = load_model(folder, dtype="float32", device="cpu")
    ids = torch.tensor([[40, 50, 60, 70]])
    with torch.no_grad():
        before = base(ids).logits
        model = PeftModel.from_pretrained(base, tmp_path / "adapter")
        assert not torch.equal(model(ids).logits, before)
        with model.disable_adapter():
            assert torch.equal(model(ids).logits, before)
    assert {weight.dtype for weight in weights(tmp_path).values()} == {torch.float32}
    assert not list((tmp_path / "adapter").glob("*.bin"))


@pytest.mark.parametrize("format", ["cloze", "two_option"])
def test_pairs_are_encoded_as_trl_and_evaluation_do(folder, tmp_path, format):
    tokenizer = load_tokenizer(folder)
    pairs = make_pairs(4, format)
    ours = encode(pairs, tokenizer, 1024)
    settings = {"chat_template_kwargs": TEMPLATE_SETTINGS}
    rows = [row | settings for row in pairs.to_dict("records")]
    arguments = DPOConfig(str(tmp_path), bf16=False, use_cpu=True, report_to="none")
    theirs = DPOTrainer._prepare_dataset(
        _Bare(tokenizer), datasets.Dataset.from_list(rows), tokenizer, arguments, "train"
    )
    for row, other, pair in zip(ours, theirs, pairs.to_dict("records"), strict=True):
        assert row["prompt_ids"] == encode_chat(tokenizer, pair["prompt"])
        assert all(row[key] == other[key] for key in ("prompt_ids", "chosen_ids", "rejected_ids"))
        answer = pair["chosen"][0]["content"]
        if format == "two_option":
            assert row["chosen_ids"][0] == letter_tokens(tokenizer)["ABC".index(answer)]
        else:
            assert tokenizer.decode(row["chosen_ids"], skip_special_tokens=True).strip() == answer


class _Bare:
    """What DPOTrainer._prepare_dataset needs of a trainer."""

    def __init__(self, tokenizer):
        self._tokenizer = tokenizer


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_reference_is_the_evaluated_model(folder, tmp_path, quantization):
    pairs = make_pairs(2, "three_option")
    log = train(folder, tmp_path, pairs, quantization=quantization)
    model = load_model(folder, quantization, "float32", "cpu")
    rows = encode(pairs, load_tokenizer(folder), 1024)
    sums = []
    for row in rows:
        ids = torch.tensor([row["prompt_ids"] + row["chosen_ids"]])
        with torch.no_grad():
            logp = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
        sums.append(logp[-len(row["chosen_ids"]) :].sum().item())
    # At the first step the adapter is zero and the policy is the reference.
    assert log["logp_chosen"].iloc[0] == pytest.approx(np.mean(sums), abs=1e-4)
    assert log["reward_margin"].iloc[0] == 0


def test_training_leaves_a_quantised_base_as_it_was(folder, tmp_path, monkeypatch):
    """Also with evaluation in between, which on some CPUs repacked the weights for good."""
    loaded = {}
    load = load_model

    def remember(*args, **kwargs):
        loaded["model"] = load(*args, **kwargs)
        loaded["before"] = {k: v.clone() for k, v in loaded["model"].state_dict().items()}
        return loaded["model"]

    monkeypatch.setattr("spillover.alignment.train.load_model", remember)
    outputs, ids = [], torch.tensor([[40, 50, 60, 70]])

    class Evaluate(_Progress):
        def on_step_end(self, args, state, control, model, **kwargs):
            model.eval()
            with torch.no_grad(), model.disable_adapter():
                outputs.append(model(ids).logits)
            model.train()

    disturbed, undisturbed = tmp_path / "disturbed", tmp_path / "undisturbed"
    train(folder, undisturbed, quantization="nf4", training={"epochs": 3})
    monkeypatch.setattr("spillover.alignment.train._Progress", Evaluate)
    log = train(folder, disturbed, quantization="nf4", training={"epochs": 3})
    assert log["grad_norm"].gt(0).all()
    assert all(torch.equal(output, outputs[0]) for output in outputs)
    monkeypatch.undo()
    with torch.no_grad():
        fresh = load_model(folder, "nf4", "float32", "cpu")(ids).logits
    assert torch.equal(fresh, outputs[0])
    after = {
        name.replace("base_layer.", ""): value
        for name, value in loaded["model"].state_dict().items()
        if "lora_" not in name
    }
    assert after.keys() == loaded["before"].keys()
    for name, value in loaded["before"].items():
        assert value.dtype == after[name].dtype
        assert torch.equal(value, after[name])
    # Evaluating between the steps changed nothing that was learnt.
    for name, value in weights(undisturbed).items():
        assert torch.equal(value, weights(disturbed)[name])


def test_dropout_of_the_adapter_is_on(folder, tmp_path):
    with_dropout = train(folder, tmp_path / "a", lora={"dropout": 0.5})
    without = train(folder, tmp_path / "b", lora={"dropout": 0.0})
    assert with_dropout["grad_norm"].iloc[0] != pytest.approx(
        without["grad_norm"].iloc[0], rel=0.01
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(folder, tmp_path, loss):
    smoothing = {"exo_pair": 0.001}.get(loss, 0.0)
    objective = {"loss": [loss], "label_smoothing": smoothing}
    logs = [
        train(
            folder,
            tmp_path,
            objective=objective,
            lora={"dropout": 0.0},
            shared_prefixes=shared,
            tokens_per_batch=1,
        )
        for shared in (True, False)
    ]
    assert logs[0]["grad_norm"].gt(0).all()
    np.testing.assert_allclose(logs[0]["loss"], logs[1]["loss"], rtol=1e-5, atol=1e-6)


def test_a_model_without_trees_is_trained_by_itself(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("spillover.alignment.train.obstacle", lambda model, rows: "it hops")
    with caplog.at_level(logging.WARNING, logger="spillover"):
        log = train(folder, tmp_path)
    assert "it hops" in caplog.text
    assert len(log) == 2


def test_items_travel_together_and_every_epoch_differs():
    sampler = trainer.ItemSampler(["a", "b", "a", "c", "b"], seed=0)
    orders = []
    for epoch in range(6):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
        assert sorted(orders[-1]) == [0, 1, 2, 3, 4]
        places = [orders[-1].index(index) for index in (0, 2)]
        assert abs(places[0] - places[1]) == 1
    assert len({tuple(order) for order in orders}) > 1


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"loss": ["sigmod"]}}, "objective.loss: expected of .* found sigmod"),
        ({"objective": {"bta": 1}}, "objective.bta: not a setting"),
        ({"objective": {"loss_weights": [1, 2]}}, "loss_weights: expected 1"),
        ({"objective": {"loss": ["exo_pair"]}}, "exo_pair needs"),
        ({"objective": {"loss": ["robust"], "label_smoothing": 0.5}}, "robust needs"),
        ({"objective": {"f_divergence": "kl"}}, "f_divergence: expected one of"),
        (
            {"objective": {"loss": ["sigmoid", "apo_zero"], "f_divergence": "forward_kl"}},
            "found apo_zero",
        ),
        ({"lora": {"r": 33}}, "lora.r: rank 33 is larger than the layer .*k_proj"),
        ({"lora": {"target_modules": ["w_q"]}}, "target_modules: .*w_q.* matches no"),
        ({"lora": {"target_modules": ["lm_head"]}}, "output head"),
        ({"training": {"pairs_per_step": 16}}, "takes 16 pairs, and there are 8"),
        ({"training": {"max_length": 60}}, "Age:0 with its answer takes .* more than 60"),
        ({"training": {"optimizer": "adam"}}, "optimizer: expected one of"),
        ({"training": {"lr_scheduler": "cosin"}}, "lr_scheduler: expected one of"),
        ({"training": {"report_to": ["tb"]}}, "report_to: expected of"),
        ({"dtype": "float16"}, "float16"),
    ],
)
def test_bad_input_is_one_line_before_the_model_loads(
    folder, tmp_path, changes, message, monkeypatch
):
    monkeypatch.setattr(
        "spillover.alignment.train.load_model", lambda *args, **kwargs: pytest.fail("loaded")
    )
    with pytest.raises(InputError, match=message) as error:
        train(folder, tmp_path, **changes)
    assert "\n" not in str(error.value)


def test_a_model_without_chat_template_is_refused(folder, tmp_path):
    plain = tmp_path / "plain"
    shutil.copytree(folder, plain)
    (plain / "chat_template.jinja").unlink()
    with pytest.raises(InputError, match="no chat template"):
        train(plain, tmp_path)


@pytest.mark.parametrize(
    "objective",
    [
        {"loss": ["sigmod"]},
        {"loss": ["exo_pair"]},
        {"loss": ["sigmoid"], "loss_weights": [1, 2]},
        {"loss": ["apo_zero"], "f_divergence": "forward_kl"},
    ],
)
def test_what_we_refuse_trl_refuses(folder, tmp_path, objective, monkeypatch):
    """So that a combination which a later TRL allows is not kept from users."""
    monkeypatch.setattr("spillover.alignment.train.check_objective", lambda objective: None)
    with pytest.raises(ValueError, match=r"(?i)unknown loss|label smoothing|loss_weights|only"):
        train(folder, tmp_path, objective=objective)


def test_settings_left_out_have_defaults():
    assert settings.complete({"r": 8}, LORA, "lora") == LORA | {"r": 8}
    assert json.loads(json.dumps(TRAINING)) == TRAINING
