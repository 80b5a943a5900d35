"""An adapter is its base's, whole and of safetensors, or it is refused."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from spillover.core.errors import InputError
from spillover.models.adapters import attach, check_adapter
from spillover.models.load import load_model

QUESTION = torch.tensor([[40, 50, 60, 70]])


def logits(model):
    with torch.inference_mode():
        return model(QUESTION).logits


@pytest.fixture
def trained(tiny_copy, tmp_path):
    """A base, an adapter of it as PEFT saves it, and the logits that it had."""
    folder = tiny_copy()
    (folder / "source.json").write_text(json.dumps({"type": "hub", "repo": "Org/Tiny-Chat"}))
    model = load_model(folder, "none", "float32", "cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        model = get_peft_model(model, config).eval()
    model.peft_config["default"].base_model_name_or_path = "org/tiny-chat"
    model.save_pretrained(tmp_path / "adapter")
    return folder, tmp_path / "adapter", logits(model)


def change(adapter, **settings):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def rewrite(adapter, edit):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


def test_an_adapter_that_fits_is_attached_as_it_was(trained):
    folder, adapter, expected = trained
    check_adapter(adapter, folder)
    base = load_model(folder, "none", "float32", "cpu")
    assert not torch.equal(logits(base), expected)
    assert torch.equal(logits(attach(base, adapter).eval()), expected)


def pickled(adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")


def cut(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def without_half_a_pair(adapter):
    rewrite(adapter, lambda tensors: tensors.pop(max(tensors)))


def of_another_size(adapter):
    rewrite(
        adapter,
        lambda tensors: tensors.update({k: v[:, :1].contiguous() for k, v in tensors.items()}),
    )


def of_a_deeper_model(adapter):
    rewrite(
        adapter,
        lambda t: t.update({k.replace("layers.0", "layers.7"): v.clone() for k, v in t.items()}),
    )


FAULTS = {
    pickled: r"found no adapter_model.safetensors \(pickles",
    cut: "adapter_model.safetensors: cut or damaged",
    without_half_a_pair: "tensor base_model.model.model.layers.1.* missing",
    of_another_size: r"expected base_model.* of shape \(.*, as its base has it, found",
    of_a_deeper_model: r"4 tensors \(first: base_model.model.model.layers.7.* left over",
    (lambda a: change(a, target_modules=["Wqkv"])): "does not fit its base: Target modules",
    (lambda a: change(a, peft_type="NEW")): "adapter_config.json: cannot be read",
    (lambda a: change(a, base_model_name_or_path="Org/Tiny")): (
        "its base is Org/Tiny, and the study's is Org/Tiny-Chat; .* as base: Org/Tiny"
    ),
}


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_an_adapter_that_does_not_fit_is_refused_before_weights_are_loaded(trained, number):
    folder, adapter, _ = trained
    spoil, message = list(FAULTS.items())[number]
    spoil(adapter)
    with pytest.raises(InputError, match=message) as error:
        check_adapter(adapter, folder)
    assert "\n" not in str(error.value)


def test_the_user_may_say_that_a_base_of_another_name_is_this_one(trained):
    folder, adapter, _ = trained
    change(adapter, base_model_name_or_path="mirror/Tiny-Chat")
    check_adapter(adapter, folder, said="mirror/Tiny-Chat")
    change(adapter, base_model_name_or_path="/home/somebody/checkpoint")
    check_adapter(adapter, folder)


def test_loading_looks_once_more(trained):
    folder, adapter, _ = trained
    without_half_a_pair(adapter)
    base = load_model(folder, "none", "float32", "cpu")
    with pytest.raises(InputError, match="missing"):
        attach(base, adapter)
