"""Weights that are quantised once are those that quantising at every load gives."""

import json

import pytest
import tiny_models
import torch
from safetensors.torch import load_file
from spillover.alignment import memory
from spillover.core.errors import InputError
from spillover.models.load import load_model, load_tokenizer
from spillover.models.quantize import quantize
from tiny_training import train, weights


def same(one, other) -> bool:
    """Whether all tensors of two models, scales of NF4 among them, are equal to the bit."""
    one, other = one.state_dict(), other.state_dict()
    assert any("quant_state" in name for name in one)
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.fixture(params=["llama", "llama tied", "qwen2", "smollm2"])
def folder(request, tmp_path):
    if request.param == "smollm2":
        return request.getfixturevalue("smollm2")
    architecture, _, tied = request.param.partition(" ")
    return tiny_models.make(tmp_path / "model", architecture, tie_word_embeddings=bool(tied))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stored_weights_are_those_of_quantising_at_load(folder, tmp_path, dtype):
    quantize(folder, tmp_path / "stored", dtype)
    once = load_model(tmp_path / "stored", "nf4", dtype, "cpu")
    each_time = load_model(folder, "nf4", dtype, "cpu")
    assert same(once, each_time)
    head, embedding = once.get_output_embeddings().weight, once.get_input_embeddings().weight
    tied = each_time.get_output_embeddings().weight is each_time.get_input_embeddings().weight
    assert (head is embedding) == tied
    ids = torch.tensor([[40, 50, 60, 70, 80, 90]])
    with torch.inference_mode():
        assert torch.equal(once(ids).logits, each_time(ids).logits)
    text = "The grandfather."
    assert load_tokenizer(tmp_path / "stored").encode(text) == load_tokenizer(folder).encode(text)


def test_an_adapter_trained_on_stored_weights_is_the_same(tmp_path):
    folder = tiny_models.make(tmp_path / "model", "llama", pad_is_eos=True)
    quantize(folder, tmp_path / "stored", "float32")
    found = []
    for name in ("model", "stored"):
        log = train(tmp_path / name, tmp_path / f"of {name}", quantization="nf4")
        found.append((log, weights(tmp_path / f"of {name}")))
    (log, adapter), (other_log, other) = found
    assert log.equals(other_log)
    assert all(torch.equal(adapter[name], other[name]) for name in adapter)


def test_weights_quantised_for_another_dtype_are_refused(tmp_path, tiny_folder):
    quantize(tiny_folder("llama"), tmp_path / "stored", "float32")
    with pytest.raises(InputError, match="were quantised for nf4 and float32, and nf4 and bfloat1"):
        load_model(tmp_path / "stored", "nf4", "bfloat16", "cpu")
    with pytest.raises(InputError, match="and none and float32 are asked for"):
        load_model(tmp_path / "stored", "none", "float32", "cpu")


def test_nothing_but_the_weights_differs_from_the_folder(tmp_path, tiny_copy):
    folder = tiny_copy("mistral")
    (folder / "source.json").write_text('{"type": "path"}')
    quantize(folder, tmp_path / "stored", "float32")
    assert (tmp_path / "stored" / "source.json").read_text() == '{"type": "path"}'
    kept = json.loads((tmp_path / "stored" / "config.json").read_text())
    assert kept["quantization_config"]["bnb_4bit_quant_type"] == "nf4"
    names = {file.name for file in (tmp_path / "stored").iterdir()}
    assert names == {file.name for file in folder.iterdir()} | {"quantized.json"}


def test_the_record_tells_these_weights_from_others(tmp_path, tiny_folder):
    for dtype in ("float32", "bfloat16"):
        quantize(tiny_folder("llama"), tmp_path / dtype, dtype)
    quantize(tiny_folder("llama"), tmp_path / "again", "float32")
    records = {
        name: json.loads((tmp_path / name / "quantized.json").read_text())["weights"]
        for name in ("float32", "bfloat16", "again")
    }
    assert records["float32"] == records["again"] != records["bfloat16"]


def test_the_plan_counts_what_stored_weights_take_of_the_disk(smollm2, tmp_path):
    quantize(smollm2, tmp_path, "bfloat16")
    job = {"model_folder": smollm2, "quantization": "nf4", "dtype": "bfloat16"}
    on_disk = (tmp_path / "model.safetensors").stat().st_size
    assert memory.disk_bytes(job) == pytest.approx(on_disk, rel=0.01)
    tensors = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.nbytes for tensor in tensors.values()) < on_disk
    assert memory.disk_bytes(job | {"quantization": "none"}) == 0
