"""Files that do not hold an architecture's weights are refused, from their headers alone."""

import json
import resource
import shutil
from pathlib import Path

import pytest
import tiny_models
import torch
from safetensors.torch import load_file, save_file
from spillover.core.errors import InputError
from spillover.models.load import load_model
from spillover.models.quantize import quantize
from spillover.models.weights import check_weights, weight_files
from transformers import AutoConfig, AutoModelForCausalLM, initialization


def rewrite(folder, change):
    """Save a folder's tensors again after ``change`` did something to their dict."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def configure(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def in_shards(folder):
    """The same weights as two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / shard, {"format": "pt"})
        weight_map |= dict.fromkeys(part, shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def without_a_parameter(folder):
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))


def of_another_shape(folder):
    rewrite(folder, lambda t: t.update({"model.norm.weight": torch.ones(32)}))


def with_a_tensor_more(folder):
    rewrite(folder, lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.ones(2, 2)}))


def gptq(folder):
    configure(folder, quantization_config={"quant_method": "gptq", "bits": 4})


def packed_without_a_word(folder):
    """As GPTQ packs a layer, but nothing in the configuration says so."""

    def pack(tensors):
        name = "model.layers.0.self_attn.q_proj"
        del tensors[f"{name}.weight"]
        tensors[f"{name}.qweight"] = torch.zeros(8, 64, dtype=torch.int32)

    rewrite(folder, pack)


def fp8(folder):
    def cast(tensors):
        name = "model.layers.0.self_attn.q_proj.weight"
        tensors[name] = tensors[name].to(torch.float8_e4m3fn)

    rewrite(folder, cast)


def fp4(folder):
    configure(folder, quantization_config={"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"})


def pointer(folder):
    (folder / "model.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n"
    )


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def without_a_shard(folder):
    (in_shards(folder) / "model-00002-of-00002.safetensors").unlink()


def with_another_models_shard(folder):
    path = in_shards(folder) / "model-00002-of-00002.safetensors"
    tensors = load_file(path)
    tensors.pop(min(tensors))
    save_file(tensors, path, {"format": "pt"})


def renamed(name):
    return lambda folder: (folder / "model.safetensors").rename(folder / name)


FAULTS = {
    without_a_parameter: "parameter model.layers.1.mlp.up_proj.weight of its architecture not in",
    of_another_shape: r"expected model.norm.weight of shape \(64,\), .* found \(32,\)",
    with_a_tensor_more: "tensor model.layers.2.mlp.up_proj.weight left over",
    gptq: r"its weights are quantised \(gptq\); expected them in bfloat16",
    packed_without_a_word: r"quantised \(model.*q_proj.qweight is of type I32\)",
    fp8: r"quantised \(model.layers.0.self_attn.q_proj.weight is of type F8_E4M3\)",
    fp4: r"quantised \(bitsandbytes, fp4\)",
    pointer: "model.safetensors: expected weights, found a git-LFS pointer",
    cut: "model.safetensors: cut or damaged",
    without_a_shard: r"1 of the 2 files that .* are missing \(first: model-00002-of-00002",
    with_another_models_shard: "that model.safetensors.index.json names not in its files",
    renamed("consolidated.safetensors"): r"found consolidated.safetensors \(Mistral's own",
    renamed("pytorch_model.bin"): r"found pytorch_model.bin \(pickles are never loaded",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_what_is_not_the_architectures_is_named_in_one_line(tiny_copy, spoil):
    folder = tiny_copy()
    spoil(folder)
    with pytest.raises(InputError, match=FAULTS[spoil]) as error:
        check_weights(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2"])
def test_whole_weights_pass_in_one_file_and_in_shards(tiny_copy, architecture):
    folder = tiny_copy(architecture)
    check_weights(folder)
    check_weights(in_shards(folder))
    assert [file.name[:11] for file in weight_files(folder)] == ["model-00001", "model-00002"]


def test_ties_and_computed_buffers_are_no_faults(tmp_path):
    folder = tiny_models.make(tmp_path / "tied", "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    rewrite(folder, lambda t: t.update({"model.rotary_emb.inv_freq": torch.ones(8)}))
    check_weights(folder)
    configure(folder, tie_word_embeddings=False)
    with pytest.raises(InputError, match=r"parameter lm_head.weight of its architecture"):
        check_weights(folder)


@pytest.fixture
def drawn(monkeypatch):
    """Parameters that transformers draws numbers for: by each way that it has to."""
    found = []
    for name, draw in initialization.TORCH_INIT_FUNCTIONS.items():

        def record(tensor, *arguments, draw=draw, **settings):
            if isinstance(tensor, torch.nn.Parameter):
                found.append(tensor)
            return draw(tensor, *arguments, **settings)

        monkeypatch.setitem(initialization.TORCH_INIT_FUNCTIONS, name, record)
    return found


@pytest.mark.parametrize("architecture", tiny_models.ARCHITECTURES)
def test_no_parameter_is_ever_initialised(tiny_folder, drawn, architecture):
    folder = tiny_folder(architecture)
    drawn.clear()  # what making it took
    check_weights(folder)
    load_model(folder, "none", "float32", "cpu")
    assert not drawn


def test_no_parameter_is_initialised_quantised_or_stored_so(tiny_folder, tmp_path, drawn):
    quantize(tiny_folder("llama"), tmp_path, "float32")
    load_model(tmp_path, "nf4", "float32", "cpu")
    assert not drawn


def test_the_loader_itself_never_goes_on_with_new_numbers(tiny_copy, tiny_folder, drawn):
    """Whatever became of the folder since it was fetched."""
    folder = tiny_copy()
    without_a_parameter(folder)
    AutoModelForCausalLM.from_pretrained(folder)
    assert drawn  # so the fixture sees what transformers does by itself
    with pytest.raises(InputError, match=FAULTS[without_a_parameter]):
        load_model(folder, "none", "float32", "cpu")
    for spoil in (of_another_shape, with_a_tensor_more):
        copy = Path(shutil.copytree(tiny_folder("llama"), folder.parent / spoil.__name__))
        spoil(copy)
        with pytest.raises(InputError, match=FAULTS[spoil]):
            load_model(copy, "none", "float32", "cpu")


def test_only_headers_are_read(tiny_copy):
    """Weights of 8 GB that are one large hole in the disk pass in an instant."""
    folder = tiny_copy()
    configure(folder, hidden_size=4096, intermediate_size=65536, num_hidden_layers=4)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    header, end = {}, 0
    for name, tensor in model.state_dict().items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, end]}
    assert end > 6e9
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check_weights(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB
