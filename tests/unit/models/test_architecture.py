"""What is no causal language model of transformers is refused in one line, from its config."""

import json
import math

import pytest
import tiny_models
import torch
from documented import documented
from spillover.alignment import memory
from spillover.alignment.settings import LORA, TRAINING, skeleton
from spillover.core.errors import InputError
from spillover.models.architecture import check_architecture
from spillover.models.load import load_model, load_tokenizer
from spillover.models.quantize import quantize
from transformers import AutoConfig


@pytest.fixture(params=tiny_models.ARCHITECTURES)
def architecture(request):
    return request.param


def test_architectures_that_can_be_scored_pass(architecture, tiny_folder):
    check_architecture(tiny_folder(architecture))


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("t5", "is an encoder with a decoder"),
        ("bart", "is an encoder with a decoder"),
        ("bert", "is an encoder, whose tokens see those behind them"),
        ("bert-generation", "is an encoder, whose tokens see those behind them"),
        ("xlnet", "is an encoder, whose tokens see those behind them"),
        ("qwen2_5_vl", "has no causal language model in transformers"),
        ("mistral3", r"is a wrapper .* \(its text model, mistral, saved by itself can\)"),
        ("llava", r"is a wrapper .* \(its text model, llama, saved by itself can\)"),
        ("vit", "has no causal language model in transformers"),
    ],
)
def test_what_is_no_causal_language_model_of_text_is_refused(tmp_path, architecture, message):
    AutoConfig.for_model(architecture).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=f"config.json: {architecture} {message}") as error:
        check_architecture(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "qwen"}, r"transformers \S+ has no architecture model_type: qwen"),
        (
            {"model_type": "qwen", "auto_map": {"AutoConfig": "mine.Config"}},
            r"\(qwen\) needs code of its own \(auto_map\), which is never run",
        ),
        ({"hidden_size": "many"}, "not a configuration of llama: "),
        ({"hidden_act": "magic"}, "cannot build this llama: "),
    ],
)
def test_a_configuration_that_transformers_cannot_use_is_refused(tiny_copy, changes, message):
    folder = tiny_copy()
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(InputError, match=message) as error:
        check_architecture(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", ["phi3", "falcon"])
def test_code_in_a_folder_is_never_run(tiny_folder, tiny_copy, monkeypatch, architecture):
    folder = tiny_copy(architecture)
    code = "raise SystemExit('the code was run')"
    (folder / "mine.py").write_text(code)
    for file, names in {
        "config.json": ["AutoConfig", "AutoModelForCausalLM", "AutoTokenizer"],
        "tokenizer_config.json": ["AutoTokenizer"],
    }.items():
        settings = json.loads((folder / file).read_text())
        auto_map = dict.fromkeys(names, "mine.Class")
        if file == "tokenizer_config.json":
            auto_map = {"AutoTokenizer": ["mine.Class", None]}
        (folder / file).write_text(json.dumps(settings | {"auto_map": auto_map}))
    monkeypatch.setattr("builtins.input", lambda *text: pytest.fail("a question is asked"))
    check_architecture(folder)
    model = load_model(folder, "none", "float32", "cpu")
    own = load_model(tiny_folder(architecture), "none", "float32", "cpu")
    assert type(model) is type(own)
    assert skeleton(folder, LORA).get_base_model().config.model_type == architecture
    assert load_tokenizer(folder).encode("A") == load_tokenizer(tiny_folder(architecture)).encode(
        "A"
    )


# ------------------------------------------------------------------ NF4


def test_nf4_is_stored_counted_and_documented(architecture, tiny_folder, tmp_path, caplog):
    folder = tiny_folder(architecture)
    ids = torch.tensor([[40, 50, 60, 70, 80, 90]])
    if documented(architecture, "NF4") == {"NF4": "refused"}:
        with pytest.raises(InputError, match=r"quantization: nf4 .* set quantization: none"):
            quantize(folder, tmp_path, "bfloat16")
        return
    quantize(folder, tmp_path, "bfloat16")
    once = load_model(tmp_path, "nf4", "bfloat16", "cpu")
    caplog.clear()
    each_time = load_model(folder, "nf4", "bfloat16", "cpu")
    one, other = once.state_dict(), each_time.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    with torch.inference_mode():
        assert torch.equal(once(ids).logits, each_time(ids).logits)
    job = {"model_folder": folder, "quantization": "nf4", "dtype": "bfloat16"}
    assert memory.disk_bytes(job) == tiny_models.loaded_bytes(each_time)
    left = memory.not_quantised(job)
    assert ("not quantised" in caplog.text) == bool(left)
    assert not left or left.split(": ")[1] in caplog.text
    kinds = {"experts": "but its experts", "out_proj.weight": "but its mixers"}
    if "vision" in left:
        kinds = {}
    found = [words for kind, words in kinds.items() if kind in left]
    assert documented(architecture, "NF4") == {"NF4": (found or ["yes"])[0]}


def test_memory_is_planned(architecture, tiny_folder):
    settings = {"lora": LORA, "training": TRAINING, "quantization": "none", "dtype": "bfloat16"}
    few, many = (
        memory.memory(tiny_folder(architecture), n, 16, gradient_checkpointing=False, **settings)
        for n in (64, 128)
    )
    assert few["activations"] * 1.5 < many["activations"]
    assert all(math.isfinite(value) and value >= 0 for value in many.values())
