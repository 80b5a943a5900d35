"""What may be added to the objective: a focal weight, an anchor on the base, replay."""

import logging
import signal

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from peft import PeftModel, get_peft_model
from preferences import make_pairs
from spillover.alignment import checkpoints as saved
from spillover.alignment import focal, plan, terms, trainer
from spillover.alignment.encoding import encode_anchor, encode_replay
from spillover.alignment.settings import LORA, OBJECTIVE, TRAINING, check_objective, lora_config
from spillover.alignment.shared_prefix_dpo import SharedPrefixCollator
from spillover.alignment.terms import Term
from spillover.core.errors import InputError
from spillover.models.load import load_model, load_tokenizer
from tiny_training import train, weights
from trl.trainer import dpo_trainer
from trl.trainer.utils import add_fused_lm_head

ANCHOR = {"attributes": ["Religion"], "weight": 0.5}
REPLAY = {"attributes": ["Religion"], "weight": 0.5}


def prompts(n: int = 6) -> pd.DataFrame:
    """Other questions than those of the pairs, with three replies of different lengths."""
    rows = []
    for item in range(n):
        text = f"Context: {'It rained. ' * (item % 3)}Two neighbours met on day {item}."
        replies = ["The first", "The second of them", "Can't be determined"]
        rows.append((f"Religion:{item}", [{"role": "user", "content": text}], replies))
    return pd.DataFrame(rows, columns=["item_id", "prompt", "replies"])


def answered(n: int = 6) -> pd.DataFrame:
    table = prompts(n)
    texts = [f"The {'grand' * (item % 3)}father" for item in range(n)]
    return table[["item_id", "prompt"]].assign(response=texts)


def texts() -> pd.DataFrame:
    lines = ["I saw a grandson.", "It was outside the store last week.", "Who was it?"]
    return pd.DataFrame({"item_id": ["line 1", "line 2", "line 3"], "text": lines})


# ------------------------------------------------------------------ the focal weight


def test_the_focal_loss_is_the_one_worked_by_hand():
    # p = 3/4 at a margin of log 3: -(1/4)^2 log(3/4) = 0.0179801295; at 0: (1/2)^2 log 2.
    margins = torch.tensor([np.log(3.0), 0.0])
    with focal.weighted(2.0):
        loss = -dpo_trainer.F.logsigmoid(margins)
    assert loss.tolist() == pytest.approx([0.0179801295, 0.25 * np.log(2)], rel=1e-6)


def test_gradients_flow_through_the_weight():
    margins = torch.linspace(-20, 20, 41, dtype=torch.float64, requires_grad=True)
    p = torch.sigmoid(margins)
    (expected,) = torch.autograd.grad((-((1 - p) ** 1.5) * torch.log(p)).sum(), margins)
    with focal.weighted(1.5):
        loss = -dpo_trainer.F.logsigmoid(margins).sum()
    (found,) = torch.autograd.grad(loss, margins)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    # Where 1 - p is 0 to the last digit, and a power below 1 of it has no derivative.
    far = torch.tensor([200.0], requires_grad=True)
    with focal.weighted(0.5):
        (gradient,) = torch.autograd.grad(dpo_trainer.F.logsigmoid(far), far)
    assert gradient.isfinite().all()


def test_the_weight_is_gone_afterwards_and_nothing_else_is_touched():
    functions = dpo_trainer.F
    assert functions is torch.nn.functional
    with focal.weighted(2.0):
        assert dpo_trainer.F.relu is torch.nn.functional.relu
        assert torch.nn.functional.logsigmoid(torch.zeros(1)).item() == pytest.approx(-np.log(2))
    assert dpo_trainer.F is functions
    with pytest.raises(ZeroDivisionError), focal.weighted(2.0):
        _ = 1 / 0
    assert dpo_trainer.F is functions
    with focal.weighted(0.0):
        assert dpo_trainer.F is functions


@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm"])
@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "alpha_divergence"])
def test_a_focal_step_has_the_plain_steps_metrics_and_its_own_loss(
    folder, tmp_path, loss, divergence
):
    """One step from the reference: only what is minimised differs."""
    objective = {"loss": [loss], "f_divergence": divergence}
    pairs, settings = make_pairs(4, "cloze"), {"training": {"pairs_per_step": 8}}
    plain = train(folder, tmp_path / "a", pairs, objective=objective, **settings)
    weighted = train(
        folder, tmp_path / "b", pairs, objective=objective | {"focal_gamma": 2.0}, **settings
    )
    # The policy is the reference: every margin is 0 and p is 1/2.
    assert plain["loss"].tolist() == pytest.approx([np.log(2)], rel=1e-6)
    assert weighted["loss"].tolist() == pytest.approx([np.log(2) / 4], rel=1e-6)
    differing = ["loss", "grad_norm"]
    pd.testing.assert_frame_equal(
        plain.drop(columns=differing), weighted.drop(columns=differing), check_exact=True
    )
    # d/dx -(1-p)^2 log p at 0 is (1/2)^2 (2 (1/2) log(1/2) - 1/2) = -(1/4) (1/2 + log 2),
    # against -1/2 without the weight.
    ratio = weighted["grad_norm"].iloc[0] / plain["grad_norm"].iloc[0]
    assert ratio == pytest.approx((0.5 + np.log(2)) / 2, rel=1e-4)


@pytest.mark.parametrize("shared", [True, False])
def test_terms_that_are_not_asked_for_change_no_bit(folder, tmp_path, monkeypatch, shared):
    ours = train(folder, tmp_path / "a", shared_prefixes=shared)
    compute_loss = trainer.DPOTrainer.compute_loss

    def before(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        return self.weight * compute_loss(self, model, inputs, return_outputs)

    monkeypatch.setattr(trainer._Steps, "compute_loss", before)
    monkeypatch.setattr(focal, "weighted", lambda gamma: pytest.fail("weighted"))
    theirs = train(
        folder,
        tmp_path / "b",
        shared_prefixes=shared,
        objective={"focal_gamma": 0.0, "anchor": None, "replay": None},
    )
    pd.testing.assert_frame_equal(ours, theirs, check_exact=True)
    for name, tensor in weights(tmp_path / "a").items():
        assert torch.equal(tensor, weights(tmp_path / "b")[name])
    assert not {"anchor_kl", "replay_loss"} & set(ours)


# ------------------------------------------------------------------ the terms


def moved(folder, seed: int = 0) -> PeftModel:
    """A tiny model with an adapter that is not zero."""
    model = load_model(folder, dtype="float32", device="cpu")
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    model = get_peft_model(model, lora_config(LORA | {"dropout": 0.0}, model))
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    return model.train()


def gradients(model, loss: torch.Tensor) -> list[torch.Tensor]:
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return list(torch.autograd.grad(loss, trained))


def directly(model, sequence: list[int], places: list[int]) -> torch.Tensor:
    """Sum over places of KL(policy || base), as it is written."""
    ids = torch.tensor([sequence])
    policy = model(input_ids=ids, use_cache=False).logits[0, places].log_softmax(-1)
    with torch.no_grad(), model.disable_adapter():
        base = model(input_ids=ids, use_cache=False).logits[0, places].log_softmax(-1)
    return torch.nn.functional.kl_div(base, policy, reduction="sum", log_target=True)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("kind", ["prompts", "texts"])
def test_the_anchor_is_the_divergence_computed_directly(folder, share, kind, monkeypatch):
    monkeypatch.setattr(terms, "PLACES_AT_ONCE", 5)
    model, tokenizer = moved(folder), load_tokenizer(folder)
    rows = encode_anchor(prompts() if kind == "prompts" else texts(), tokenizer, 1024)
    total = Term("anchor_kl", rows, 1.0, 2, 0).total(model, rows, share)
    expected = torch.zeros(())
    n = 0
    if kind == "texts":
        for text in texts()["text"]:
            ids = tokenizer.encode(text)
            n += len(ids)
            expected = expected + directly(model, ids, list(range(len(ids))))
    else:
        for row in prompts().to_dict("records"):
            for reply in row["replies"]:
                said = [*row["prompt"], {"role": "assistant", "content": reply}]
                whole = tokenizer.apply_chat_template(said, tokenize=False)
                end = whole.index(reply)
                ids = tokenizer.encode(whole, add_special_tokens=False)
                start = len(tokenizer.encode(whole[:end], add_special_tokens=False))
                n += len(ids) - start
                expected = expected + directly(model, ids, list(range(start - 1, len(ids) - 1)))
    assert terms.n_places(rows) == n
    assert expected > 0.1
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)
    for found, direct in zip(gradients(model, total), gradients(model, expected), strict=True):
        torch.testing.assert_close(found, direct, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_the_replays_loss_is_trls_sft(folder, tmp_path, share):
    """TRL's own trainer on the same examples, with any rejected answer beside them."""
    model, tokenizer = load_model(folder, dtype="float32", device="cpu"), load_tokenizer(folder)
    rows = encode_replay(answered(), tokenizer, 1024)
    pairs = [
        {
            "item_id": row["item_id"],
            "prompt_ids": sequence["context"][: sequence["start"] + 1],
            "chosen_ids": sequence["answer"],
            "rejected_ids": sequence["answer"][-1:],
        }
        for row in rows
        for sequence in row["sequences"]
    ]
    sft = OBJECTIVE | {"loss": ["sft"]}
    stock = trainer.StockTrainer(
        model,
        args=trainer.arguments(
            sft, TRAINING | {"pairs_per_step": 6}, 0, tmp_path, torch.device("cpu"), False
        ),
        train_dataset=datasets.Dataset.from_list(pairs),
        processing_class=tokenizer,
        peft_config=lora_config(LORA | {"dropout": 0.0}, model),
        tokens_per_batch=10**6,
    )
    model = stock.model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.05)
    expected = trainer.DPOTrainer.compute_loss(stock, model, stock.collate(pairs))
    total = Term("replay_loss", rows, 1.0, 2, 0).total(model, rows, share)
    assert terms.n_places(rows) == sum(len(pair["chosen_ids"]) for pair in pairs)
    # The end of the turn is part of an answer.
    assert all(pair["chosen_ids"][-2] == tokenizer.eos_token_id for pair in pairs)
    found = total / terms.n_places(rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    for one, other in zip(gradients(model, found), gradients(model, expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_steps_examples_depend_on_seed_and_step_and_each_comes_once_a_round():
    term = Term("anchor_kl", list(range(7)), 1.0, per_step=3, seed=5)
    steps = [term.of_step(step) for step in range(7)]
    rounds = np.array(steps).reshape(3, 7)
    assert (np.sort(rounds) == np.arange(7)).all()
    assert len({tuple(order) for order in rounds.tolist()}) == 3
    assert [term.of_step(step) for step in range(7)] == steps
    assert [Term("anchor_kl", list(range(7)), 1.0, 3, 6).of_step(s) for s in range(7)] != steps
    # More than there are: twice in a step.
    assert sorted(Term("anchor_kl", [0, 1], 1.0, 4, 0).of_step(3)) == [0, 0, 1, 1]


# ------------------------------------------------------------------ training


def both(weight: float = 0.5) -> dict:
    """Training with an anchor and replay."""
    return {
        "objective": {"anchor": ANCHOR | {"weight": weight}, "replay": REPLAY},
        "anchor": prompts(),
        "replay": answered(),
        "lora": {"dropout": 0.0},
    }


def test_an_anchor_of_enormous_weight_keeps_the_adapter_at_the_base(folder, tmp_path):
    settings = {"training": {"epochs": 6}, "lora": {"dropout": 0.0}, "anchor": prompts(2)}

    def divergences(name, weight):
        objective = {"anchor": ANCHOR | {"weight": weight}}
        log = train(folder, tmp_path / name, objective=objective, **settings)
        assert log["anchor_kl"].iloc[0] == pytest.approx(0, abs=1e-6)
        return log["anchor_kl"]

    free, kept = divergences("free", 1e-9), divergences("kept", 1e3)
    assert free.is_monotonic_increasing
    assert free.iloc[-1] > 0.01
    assert kept.iloc[-1] < free.iloc[-1] / 20


def test_the_logged_loss_is_the_pairs_and_the_weighted_terms(folder, tmp_path):
    plain = train(folder, tmp_path / "a", lora={"dropout": 0.0})
    log = train(folder, tmp_path / "b", **both(weight=2.0))
    added = 2.0 * log["anchor_kl"] + 0.5 * log["replay_loss"]
    assert log["loss"].iloc[0] == pytest.approx(plain["loss"].iloc[0] + added.iloc[0], rel=1e-6)
    assert log["replay_loss"].gt(1).all()
    assert (log["tokens"] > plain["tokens"]).all()
    assert "anchor_kl: 2.0" not in (tmp_path / "b/adapter/README.md").read_text()
    assert "weight: 2.0" in (tmp_path / "b/adapter/README.md").read_text()


@pytest.mark.parametrize("shared", [True, False])
def test_a_step_divided_or_whole_is_the_same(folder, tmp_path, shared):
    settings = both() | {"shared_prefixes": shared}
    whole = train(folder, tmp_path / "a", tokens_per_batch=10**6, **settings)
    parts = train(folder, tmp_path / "b", tokens_per_batch=1, **settings)
    pd.testing.assert_frame_equal(
        whole.drop(columns="tokens"), parts.drop(columns="tokens"), rtol=1e-4, atol=1e-6
    )


def test_prefixes_shared_or_not_are_the_same(folder, tmp_path):
    logs = [train(folder, tmp_path / str(s), shared_prefixes=s, **both()) for s in (True, False)]
    for column in ("loss", "anchor_kl", "replay_loss", "grad_norm"):
        np.testing.assert_allclose(logs[0][column], logs[1][column], rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_activations_computed_twice(folder, tmp_path):
    logs = [
        train(folder, tmp_path / str(twice), gradient_checkpointing=twice, **both())
        for twice in (True, False)
    ]
    pd.testing.assert_frame_equal(*logs, rtol=1e-4, atol=1e-6)


def test_stopped_and_resumed_training_gives_the_same_bits(folder, tmp_path, monkeypatch):
    settings = both() | {"lora": {"dropout": 0.2}, "training": {"epochs": 3}}
    whole = train(folder, tmp_path / "whole", **settings)
    collate, calls = SharedPrefixCollator.__call__, []

    def asked(self, part):
        calls.append(part)
        if len(calls) == 4:
            signal.raise_signal(signal.SIGTERM)
        return collate(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(SharedPrefixCollator, "__call__", asked)
        with pytest.raises(InputError, match="ended by SIGTERM at step 3 of 6"):
            train(folder, tmp_path / "stopped", **settings)
    assert saved.last(tmp_path / "stopped" / "checkpoints").name == "checkpoint-3"
    again = train(folder, tmp_path / "stopped", **settings)
    pd.testing.assert_frame_equal(whole, again, check_exact=True)
    for name, tensor in weights(tmp_path / "whole").items():
        assert torch.equal(tensor, weights(tmp_path / "stopped")[name])


def test_checkpoints_of_other_examples_are_another_runs(folder, tmp_path, caplog):
    train(folder, tmp_path, **both())
    with caplog.at_level(logging.WARNING, logger="spillover"):
        train(folder, tmp_path, **(both() | {"anchor": prompts(5)}))
    assert "another anchor_kl; starting over" in caplog.text


def test_out_of_memory_in_a_term_halves_what_runs_at_once(folder, tmp_path, monkeypatch, caplog):
    whole = train(folder, tmp_path / "a", **both())
    total, sizes = Term.total, []

    def limited(self, model, rows, share):
        sizes.append(len(rows))
        if len(rows) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return total(self, model, rows, share)

    monkeypatch.setattr(Term, "total", limited)
    with caplog.at_level(logging.WARNING, logger="spillover"):
        halved = train(folder, tmp_path / "b", **both())
    assert "out of memory" in caplog.text
    assert max(sizes) == 2
    pd.testing.assert_frame_equal(
        whole.drop(columns="tokens"), halved.drop(columns="tokens"), rtol=1e-4, atol=1e-6
    )


def test_memory_for_no_example_is_one_line(folder, tmp_path, monkeypatch):
    def none(self, model, rows, share):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(Term, "total", none)
    with pytest.raises(InputError, match=r"out of memory with \d+ tokens in one forward pass"):
        train(folder, tmp_path, **both())


def test_what_is_planned_is_what_runs_with_terms_too(folder, tmp_path):
    job = {"model_folder": folder, "pairs": make_pairs(6, "cloze"), "lora": {}}
    job |= {"training": {"pairs_per_step": 4}, "quantization": "none", "dtype": "float32"}
    job |= {key: both()[key] for key in ("objective", "anchor", "replay")}
    machine = {"gpu_memory": None, "training_tokens_per_batch": 300}
    planned = plan.choose(job, machine)
    del job["model_folder"]
    log = train(folder, tmp_path, tokens_per_batch=300, **job)
    job["model_folder"] = folder
    assert log["tokens"].sum() == planned["tokens"]
    without = plan.choose(job | {"objective": {}, "anchor": None, "replay": None}, machine)
    assert planned["tokens"] > without["tokens"]
    assert planned["head"] >= without["head"]


# ------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"focal_gamma": -1.0}, "objective.focal_gamma: expected 0 or more, found -1.0"),
        ({"focal_gamma": 1.0, "loss": ["sigmoid", "ipo"]}, "focal_gamma: goes with .*found ipo"),
        ({"focal_gamma": 1.0, "f_divergence": "js_divergence"}, "any f_divergence but js"),
        ({"anchor": {"weight": 1.0}}, "anchor: expected attributes or texts, found none"),
        (
            {"anchor": ANCHOR | {"texts": "a.txt"}},
            "anchor: expected attributes or texts, found attributes and texts",
        ),
        ({"anchor": ANCHOR | {"weight": 0.0}}, "anchor.weight: expected a number above 0"),
        ({"anchor": {"attributes": ["Age"]}}, "anchor.weight: expected a number above 0, found N"),
        ({"anchor": ANCHOR | {"wieght": 1}}, "objective.anchor.wieght: not a setting"),
        ({"replay": {"weight": 1.0}}, "objective.replay: expected attributes, found none"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(changes, message):
    with pytest.raises(InputError, match=message) as error:
        check_objective(OBJECTIVE | changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"anchor": None}, "objective.anchor: .* goes with examples"),
        ({"objective": {"replay": REPLAY}}, "objective.anchor: None goes with no examples"),
        ({"anchor": prompts(0)}, "objective.anchor: expected examples, found none"),
        ({"anchor": texts().assign(text="a b c " * 60)}, "training.max_length: line 1 takes"),
        ({"replay": answered().assign(response="no " * 90)}, "Religion:0 with its answer takes"),
    ],
)
def test_examples_that_do_not_fit_are_refused_before_the_model_loads(
    folder, tmp_path, changes, message, monkeypatch
):
    monkeypatch.setattr(
        "spillover.alignment.train.load_model", lambda *args, **kwargs: pytest.fail("loaded")
    )
    settings = both() | {"training": {"max_length": 120}, "pairs": make_pairs(4, "two_option")}
    with pytest.raises(InputError, match=message) as error:
        train(folder, tmp_path, **(settings | changes))
    assert "\n" not in str(error.value)
