"""Diagnostics equal what each sequence by itself gives; the card says what was done."""

import json

import pytest
import tiny_models
import torch
from peft import LoraConfig, get_peft_model
from preferences import make_pairs
from spillover.alignment import diagnostics, model_card
from spillover.alignment.encoding import encode
from spillover.alignment.train import train
from spillover.models.load import load_model, load_tokenizer
from spillover.models.tokens import letter_tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.make(tmp_path_factory.mktemp("model"), "mistral")


@pytest.mark.parametrize("format", ["cloze", "three_option"])
def test_diagnostics_equal_sequences_by_themselves(folder, format):
    torch.manual_seed(0)
    base = load_model(folder, dtype="float32", device="cpu")
    model = get_peft_model(base, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    tokenizer = load_tokenizer(folder)
    pairs = encode(make_pairs(6, format), tokenizer, 1024)
    letters = letter_tokens(tokenizer) if format == "three_option" else None
    table = diagnostics.diagnose(model, pairs, letters, tokens_per_batch=200).set_index("run")

    def score(pair, side):
        ids = torch.tensor([pair["prompt_ids"] + pair[side]])
        with torch.no_grad():
            scores = model(ids).logits[0].double().log_softmax(-1)
        start = len(pair["prompt_ids"])
        each = scores[start - 1 : -1].gather(1, ids[0, start:, None])
        return each.sum().item(), scores[start - 1]

    model.eval()
    chosen = [score(pair, "chosen_ids") for pair in pairs]
    rejected = [score(pair, "rejected_ids") for pair in pairs]
    with model.disable_adapter():
        before = [score(pair, "chosen_ids")[1] for pair in pairs]
    n = len(pairs)
    aligned = table.loc["aligned"]
    assert aligned["n_pairs"] == n
    assert aligned["logp_chosen"] == pytest.approx(sum(c for c, _ in chosen) / n, rel=1e-5)
    assert aligned["logp_rejected"] == pytest.approx(sum(r for r, _ in rejected) / n, rel=1e-5)
    ranked = sum(c > r for (c, _), (r, _) in zip(chosen, rejected, strict=True)) / n
    assert aligned["ranking_accuracy"] == ranked
    kl = sum((p.exp() * (p - q)).sum() for (_, p), q in zip(chosen, before, strict=True)) / n
    assert kl > 0.01
    assert aligned["kl_to_base"] == pytest.approx(kl.item(), rel=1e-4)
    assert table.loc["base", "kl_to_base"] == 0
    if letters is None:
        assert not table.filter(like="probability").columns.any()
        return
    mean = sum(p[letters[1]].exp() for _, p in chosen) / n
    assert aligned["probability_B"] == pytest.approx(mean.item(), rel=1e-4)


def card(folder, source=None, **changes) -> str:
    """Text of a model card."""
    given = {"settings": {}, "quantization": "none", "dtype": "float32", "n_pairs": 12}
    given |= {"pairs_sha256": "f00", "seed": 3, "results": None} | changes
    model_card.write(folder, source or {}, **given)
    return (folder / "README.md").read_text()


def test_card_names_the_base_the_data_and_the_settings(tmp_path):
    source = {"type": "hub", "repo": "someone/model", "revision": "main", "commit": "abc123"}
    settings = {"objective": {"loss": ["ipo"]}, "lora": {"r": 8}, "training": {"epochs": 2}}
    text = card(tmp_path, source, settings=settings, quantization="nf4", dtype="bfloat16")
    _, head, body = text.split("---\n", 2)
    assert "base_model: someone/model" in head
    for part in ("abc123", "f00", "| 12,", "| seed | 3 |", "loss:\n  - ipo", "r: 8", "nf4"):
        assert part in body
    assert "aligned by DPO for fairness" in body
    assert "chat_template" not in body


def test_card_names_the_arguments_of_the_chat_template(tmp_path):
    asked = {"reasoning_effort": "low"}
    body = card(tmp_path, settings={"lora": {"r": 8}}, chat_template=asked)
    assert "chat_template:\n  reasoning_effort: low\nlora:\n  r: 8\n```" in body


def test_the_card_of_a_control_says_that_it_is_one(tmp_path):
    pairs = {"format": "cloze", "preferences": "shuffled"}
    text = card(tmp_path, data={"target": ["Age", "SES"], "pairs": pairs})
    assert "# LoRA adapter, trained by DPO on shuffled preferences: a control" in text
    assert "there was nothing to learn" in text
    assert "| aligned for | Age, SES |" in text
    assert "| 12 (cloze, preferences shuffled), sha256" in text
    assert "aligned by DPO for fairness" not in text


def test_an_adapter_of_a_hub_model_names_it(folder, tmp_path):
    named = tmp_path / "model"
    named.mkdir()
    for file in folder.iterdir():
        (named / file.name).symlink_to(file)
    record = {"type": "hub", "repo": "someone/model", "commit": "abc123"}
    (named / "source.json").write_text(json.dumps(record))
    train(
        make_pairs(2, "three_option"),
        named,
        objective={},
        lora={},
        training={"pairs_per_step": 4},
        quantization="none",
        dtype="float32",
        device="cpu",
        seed=0,
        checkpoints=tmp_path / "checkpoints",
        output=tmp_path / "adapter",
        results="results/study/spillover.tsv",
    )
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("someone/model", "abc123")
    assert "results/study/spillover.tsv" in (tmp_path / "adapter" / "README.md").read_text()
