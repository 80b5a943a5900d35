"""Adapters made of others: what they do to a model, and what is refused."""

import contextlib
import inspect
import json
import os
import runpy
import shutil
import subprocess
import sys
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from peft import AdaLoraConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from spillover.alignment import derived_card
from spillover.alignment.derive import METHODS, PRUNING, complete, merge, truncate
from spillover.core import logs
from spillover.core.errors import InputError
from spillover.core.files import file_sha256
from spillover.models.adapters import attach, check_adapter
from spillover.models.load import load_model

SCRIPTS = Path(__file__).parents[3] / "workflow" / "scripts"
QUESTION = torch.tensor([[40, 50, 60, 70]])
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
Q = "model.layers.1.self_attn.q_proj"


def load(folder):
    return load_model(folder, "none", "float32", "cpu")


def change(adapter, **settings):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def config_of(adapter):
    return json.loads((adapter / "adapter_config.json").read_text())


@pytest.fixture
def make_adapter(tiny_folder, tmp_path):
    """Write a random adapter of a tiny model, as PEFT saves it."""
    numbers = count()

    def make(architecture="llama", kind=LoraConfig, **settings) -> Path:
        number = next(numbers)
        settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"]} | settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            settings = {"init_lora_weights": False} | settings
            model = get_peft_model(
                load(tiny_folder(architecture)), kind(task_type="CAUSAL_LM", **settings)
            )
        folder = tmp_path / f"source-{number}"
        model.save_pretrained(folder, save_embedding_layers=False)
        change(
            folder,
            init_lora_weights=True,
            base_model_name_or_path="org/tiny-chat",
            revision="abc123",
        )
        return folder

    return make


@pytest.fixture
def attached(tiny_folder):
    """A tiny model with an adapter, which must fit it."""

    def attach_to(adapter, architecture="llama") -> PeftModel:
        check_adapter(adapter, tiny_folder(architecture))
        return attach(load(tiny_folder(architecture)), adapter).eval()

    return attach_to


@pytest.fixture
def updates(attached):
    """dW of each matrix of a tiny model, by PEFT."""

    def of(adapter, architecture="llama") -> dict[str, np.ndarray]:
        model = attached(adapter, architecture)
        return {
            name.removeprefix("base_model.model."): layer.get_delta_weight("default").numpy()
            for name, layer in model.named_modules()
            if isinstance(layer, LoraLayer)
        }

    return of


def answers(model):
    with torch.inference_mode():
        return model(QUESTION).logits


def close(a, b):
    """Whether two adapters' updates are of the same modules and values."""
    assert a.keys() == b.keys()
    for module in a:
        assert np.abs(a[module]).max() > 1e-3
        np.testing.assert_allclose(a[module], b[module], rtol=1e-5, atol=1e-6)


PATTERNS = {
    "target_modules": LINEAR,
    "rank_pattern": {"layers.0.self_attn.q_proj": 2, "up_proj": 6},
    "alpha_pattern": {"layers.1.self_attn.q_proj": 5, "up_proj": 24},
}


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, PATTERNS, {"r": 80}])
def test_a_cut_update_is_the_best_of_its_rank(make_adapter, updates, tmp_path, rank, settings):
    source = make_adapter(**settings)
    truncate(source, rank, tmp_path / "cut")
    before, after = updates(source), updates(tmp_path / "cut")
    assert before.keys() == after.keys()
    for module, whole in before.items():
        u, values, v = np.linalg.svd(whole.astype(float))
        best = (u[:, :rank] * values[:rank]) @ v[:rank]
        assert np.linalg.matrix_rank(whole) > rank or np.allclose(whole, best, atol=1e-5)
        np.testing.assert_allclose(after[module], best, rtol=1e-4, atol=1e-5)
    assert config_of(tmp_path / "cut")["r"] == rank


@pytest.mark.parametrize("use_rslora", [False, True])
def test_ranks_and_scalings_are_each_modules_own(make_adapter, attached, tmp_path, use_rslora):
    source = make_adapter(use_rslora=use_rslora, **PATTERNS)
    truncate(source, 3, tmp_path / "cut")
    before, after = attached(source), attached(tmp_path / "cut")
    ranks = {}
    for name, layer in before.named_modules():
        if isinstance(layer, LoraLayer):
            cut = after.get_submodule(name)
            assert cut.scaling["default"] == pytest.approx(layer.scaling["default"], rel=1e-12)
            assert cut.r["default"] == min(layer.r["default"], 3)
            ranks[name] = layer.r["default"]
    assert sorted(set(ranks.values())) == [2, 4, 6]


@pytest.mark.parametrize("rank", [4, 9])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}])
def test_a_rank_that_is_no_lower_leaves_the_answers(
    make_adapter, attached, tiny_folder, tmp_path, rank, settings
):
    source = make_adapter(**settings)
    truncate(source, rank, tmp_path / "cut")
    expected = answers(attached(source))
    assert not torch.allclose(answers(load(tiny_folder("llama"))), expected, atol=1e-2)
    torch.testing.assert_close(answers(attached(tmp_path / "cut")), expected, rtol=0, atol=1e-5)
    assert config_of(tmp_path / "cut")["r"] == 4


def test_the_type_of_numbers_stays_and_signs_are_settled(make_adapter, updates, tmp_path):
    source = make_adapter()
    file = source / "adapter_model.safetensors"
    save_file({name: x.bfloat16() for name, x in load_file(file).items()}, file)
    truncate(source, 2, tmp_path / "cut")
    tensors = load_file(tmp_path / "cut" / "adapter_model.safetensors")
    assert {x.dtype for x in tensors.values()} == {torch.bfloat16}
    b = [x.float() for name, x in tensors.items() if "lora_B" in name]
    assert all((x.amax(0) == x.abs().amax(0)).all() for x in b)
    # Half of each square root of a singular value, and so of equal norms.
    a = [x.float() for name, x in tensors.items() if "lora_A" in name]
    for norms, others in zip(a, b, strict=True):
        torch.testing.assert_close(norms.norm(dim=1), others.norm(dim=0), rtol=0.02, atol=0)
    # Entries of B A are sums of two products of numbers with 8 bits.
    whole, cut = updates(source)[Q], updates(tmp_path / "cut")[Q]
    u, values, v = np.linalg.svd(whole.astype(float))
    best = (u[:, :2] * values[:2]) @ v[:2]
    assert np.abs(cut - best).max() < 2**-6 * np.abs(best).max()


def test_an_adapter_of_an_embedding_is_cut_like_any(make_adapter, updates, tmp_path):
    source = make_adapter(target_modules=["embed_tokens", "v_proj"])
    truncate(source, 2, tmp_path / "cut")
    before, after = (updates(each)["model.embed_tokens"] for each in (source, tmp_path / "cut"))
    u, values, v = np.linalg.svd(before.astype(float), full_matrices=False)
    np.testing.assert_allclose(after, (u[:, :2] * values[:2]) @ v[:2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_adapter_merged_is_itself(make_adapter, attached, tiny_folder, tmp_path, method):
    source = make_adapter(use_rslora=True)
    density = 1 if method in PRUNING else None
    merge([source], [1], method, tmp_path / "merged", tiny_folder("llama"), density)
    expected = answers(attached(source))
    torch.testing.assert_close(answers(attached(tmp_path / "merged")), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, PATTERNS])
def test_cat_is_the_weighted_sum_of_updates(make_adapter, updates, tiny_folder, tmp_path, settings):
    sources = [make_adapter(**settings), make_adapter(r=3, target_modules=["q_proj", "v_proj"])]
    merge(sources, [0.75, -0.5], "cat", tmp_path / "merged", tiny_folder("llama"))
    first, second = map(updates, sources)
    expected = {
        module: 0.75 * first.get(module, 0) - 0.5 * second.get(module, 0)
        for module in first.keys() | second.keys()
    }
    close(updates(tmp_path / "merged"), expected)
    written = config_of(tmp_path / "merged")
    assert (written["base_model_name_or_path"], written["revision"]) == ("org/tiny-chat", "abc123")
    assert written["target_modules"] == sorted(written["target_modules"])


@pytest.mark.parametrize("method", METHODS)
def test_merged_without_the_bases_weights_is_what_peft_makes_with_them(
    make_adapter, tiny_folder, tmp_path, method
):
    sources = [make_adapter(), make_adapter(lora_alpha=4), make_adapter()]
    density = 0.5 if method in PRUNING else None
    weights = [0.5, 1.0, -0.25]
    merge(sources, weights, method, tmp_path / "merged", tiny_folder("llama"), density, seed=7)
    model = PeftModel.from_pretrained(load(tiny_folder("llama")), sources[0], "a")
    model.load_adapter(sources[1], "b")
    model.load_adapter(sources[2], "c")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model.add_weighted_adapter(["a", "b", "c"], weights, "m", method, density=density)
    model.save_pretrained(tmp_path / "peft", selected_adapters=["m"], save_embedding_layers=False)
    ours, theirs = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (tmp_path / "merged", tmp_path / "peft" / "m")
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    settings = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")
    written = [config_of(folder) for folder in (tmp_path / "merged", tmp_path / "peft" / "m")]
    assert all(written[0][key] == written[1][key] for key in settings)


@pytest.mark.parametrize(("method", "times"), [("cat", 1), ("linear", 2), ("ties", 1 / 2)])
def test_two_halves_of_the_same_are_not_the_same_but_for_cat(
    make_adapter, updates, tiny_folder, tmp_path, method, times
):
    source, density = make_adapter(), 1 if method in PRUNING else None
    halves = [source, source], [0.5, 0.5]
    merge(*halves, method, tmp_path / "merged", tiny_folder("llama"), density)
    expected = {module: times * update for module, update in updates(source).items()}
    close(updates(tmp_path / "merged"), expected)


def test_modules_of_other_ranks_are_merged_linearly(make_adapter, updates, tiny_folder, tmp_path):
    """PEFT writes one rank for all, with which its own adapter cannot be read."""
    source = make_adapter(**PATTERNS)
    merge([source, source], [0.25, 0.25], "linear", tmp_path / "merged", tiny_folder("llama"))
    close(updates(tmp_path / "merged"), updates(source))


def test_dare_drops_by_its_seed(make_adapter, tiny_folder, tmp_path):
    sources = [make_adapter(), make_adapter()]

    def a_and_b(seed, name):
        merge(sources, [1, 1], "dare_ties", tmp_path / name, tiny_folder("llama"), 0.25, seed)
        return load_file(tmp_path / name / "adapter_model.safetensors")

    state = torch.get_rng_state()
    first, again, other = a_and_b(0, "first"), a_and_b(0, "again"), a_and_b(1, "other")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    dropped = torch.cat([x.flatten() for x in first.values()]) == 0
    assert dropped.float().mean().item() == pytest.approx(0.75**2, abs=0.03)


@pytest.mark.parametrize(
    ("architecture", "modules"),
    [("gpt2", ["c_attn", "wte"]), ("deepseek_v3", ["o_proj", "kv_b_proj"])],
)
def test_transposed_layers_embeddings_and_mixtures_are_merged(
    make_adapter, updates, tiny_folder, tmp_path, architecture, modules
):
    sources = [make_adapter(architecture, target_modules=modules) for _ in range(2)]
    merge(sources, [1, 1], "cat", tmp_path / "merged", tiny_folder(architecture))
    first, second = (updates(source, architecture) for source in sources)
    expected = {module: first[module] + second[module] for module in first}
    close(updates(tmp_path / "merged", architecture), expected)


def test_experts_that_are_one_parameter_are_refused(make_adapter, tmp_path):
    source = make_adapter("qwen3_moe", target_modules=["gate_proj", "up_proj", "down_proj"])
    with pytest.raises(InputError, match="of which A and B are all, found target_parameters"):
        truncate(source, 2, tmp_path / "cut")


def derive_both(first, second, model, output):
    truncate(first, 2, Path(output) / "cut")
    merge([first, second], [1, 1], "dare_ties", Path(output) / "merged", model, 0.5, 3)


def test_bytes_are_the_same_in_every_process(make_adapter, tiny_folder, tmp_path):
    settings = {"target_modules": LINEAR, "exclude_modules": ["k_proj", "lm_head", "embed_tokens"]}
    given = [make_adapter(**settings), make_adapter(**settings), tiny_folder("llama")]
    derive_both(*given, tmp_path / "here")
    # Names in sets are in another order there.
    code = "from pathlib import Path\nfrom spillover.alignment.derive import merge, truncate\n"
    code += f"{inspect.getsource(derive_both)}\nimport sys\nderive_both(*sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", code, *map(str, given), str(tmp_path / "there")],
        env=os.environ | {"PYTHONPATH": str(SCRIPTS), "PYTHONHASHSEED": "1"},
        check=True,
    )
    here, there = (
        {
            str(file.relative_to(tmp_path / folder)): file.read_bytes()
            for file in (tmp_path / folder).rglob("*")
            if file.is_file()
        }
        for folder in ("here", "there")
    )
    assert len(here) == 4
    assert here == there


def whole_module(adapter):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(3, 3)
    save_file(tensors, file)


def half_a_pair(adapter):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors.pop(max(tensors))
    save_file(tensors, file)


PLAIN = "expected a plain LoRA, of which A and B are all, found "
UNFIT = {
    (lambda a: change(a, modules_to_save=["lm_head"])): PLAIN + "modules_to_save: .'lm_head'",
    (lambda a: change(a, use_dora=True)): PLAIN + "use_dora: True",
    (lambda a: change(a, bias="lora_only")): PLAIN + "bias: lora_only",
    (lambda a: change(a, lora_bias=True)): PLAIN + "lora_bias: True",
    (lambda a: change(a, target_parameters=["experts.down_proj"])): PLAIN + "target_parameters",
    (lambda a: change(a, trainable_token_indices=[1])): PLAIN + "trainable_token_indices",
    (lambda a: change(a, alora_invocation_tokens=[1])): PLAIN + "alora_invocation_tokens",
    (lambda a: change(a, kasa_config={})): PLAIN + "kasa_config: settings",
    (lambda a: change(a, init_lora_weights="pissa_niter_4")): "unchanged base, .* pissa_niter_4",
    (lambda a: change(a, peft_type="NEW")): "adapter_config.json: cannot be read",
    (lambda a: change(a, r=5)): r"expected rank 5 on .*proj, as .*found \[\(4, 64\)",
    whole_module: "no other tensors, found base_model.model.model.embed_tokens.weight",
    half_a_pair: "expected A and B, two matrices, on model.layers.1.self_attn.q_proj, found",
}


@pytest.mark.parametrize("number", range(len(UNFIT)))
def test_an_adapter_that_is_more_than_a_and_b_is_refused(
    make_adapter, tiny_folder, tmp_path, number
):
    spoil, message = list(UNFIT.items())[number]
    source = make_adapter()
    spoil(source)
    for derive in (
        lambda: truncate(source, 2, tmp_path / "out"),
        lambda: merge([source], [1], "cat", tmp_path / "out", tiny_folder("llama")),
    ):
        with pytest.raises(InputError, match=message) as error:
            derive()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", [False, "gaussian", "eva", "orthogonal", "mica"])
def test_how_an_adapter_was_started_is_left_behind(make_adapter, tmp_path, start):
    source = make_adapter()
    change(source, init_lora_weights=start, eva_config={"rho": 1.0} if start == "eva" else None)
    truncate(source, 2, tmp_path / "cut")
    written = config_of(tmp_path / "cut")
    assert (written["init_lora_weights"], written["eva_config"]) == (True, None)


def test_another_kind_of_adapter_is_refused(make_adapter, tmp_path):
    source = make_adapter(kind=AdaLoraConfig, total_step=10, init_lora_weights=True)
    with pytest.raises(InputError, match="expected peft_type: LORA, found ADALORA"):
        truncate(source, 2, tmp_path / "out")


def test_what_peft_wrote_for_nothing_is_nothing(make_adapter, tmp_path):
    source = make_adapter()
    change(source, modules_to_save=[], megatron_config={}, loftq_config={}, rank_pattern={})
    truncate(source, 2, tmp_path / "cut")
    assert config_of(tmp_path / "cut")["r"] == 2


UNFIT_TOGETHER = {
    "another base": ({}, {"base_model_name_or_path": "org/other"}, "ties", "org/tiny-chat and org"),
    "other layers": ({}, {"layers_to_transform": [0]}, "cat", "the same layers_to_transform"),
    "another rank": ({"r": 2}, {}, "ties", "ties needs adapters of one rank, found 4 and 2 on"),
    "a pattern": ({"target_modules": ".*q_proj"}, {}, "cat", "derive.merge: all adapter configs"),
}


@pytest.mark.parametrize("case", UNFIT_TOGETHER)
def test_adapters_that_do_not_go_together_are_refused(make_adapter, tiny_folder, tmp_path, case):
    settings, changes, method, message = UNFIT_TOGETHER[case]
    sources = [make_adapter(), make_adapter(**settings)]
    change(sources[1], **changes)
    density = 1 if method in PRUNING else None
    with pytest.raises(InputError, match=message) as error:
        merge(sources, [1, 1], method, tmp_path / "out", tiny_folder("llama"), density)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_model_is_refused(make_adapter, tiny_folder, tmp_path):
    source = make_adapter(target_modules=["v_proj"])
    with pytest.raises(InputError, match="does not fit its base"):
        merge([source], [1], "cat", tmp_path / "out", tiny_folder("phi3"))


@pytest.mark.parametrize(
    ("n", "weights", "method", "density", "message"),
    [
        (2, [1], "cat", None, r"derive.weights: expected a number for each of 2 .* found \[1\]"),
        (1, [float("nan")], "cat", None, r"derive.weights: .* found \[nan\]"),
        (0, [], "cat", None, "derive.weights: .* of 0 adapters"),
        (2, [1, 1], "svd", None, "derive.method: expected one of linear, cat, ties, .*, found svd"),
        (2, [1, 1], "ties", None, "derive.density: ties keeps a share .* found None"),
        (2, [1, 1], "dare_ties", 0, "derive.density: .* found 0"),
        (2, [1, 1], "dare_ties", 1.5, "derive.density: .* found 1.5"),
        (2, [1, 1], "linear", 0.5, "derive.density: linear has none, found 0.5"),
        (1, [1], "ties", 0.5, "PEFT drops nothing of a single adapter; expected 1, found 0.5"),
    ],
)
def test_settings_that_do_not_fit_are_refused_first(tmp_path, n, weights, method, density, message):
    with pytest.raises(InputError, match=message):
        merge([tmp_path] * n, weights, method, tmp_path / "out", tmp_path, density)


@pytest.mark.parametrize(
    ("given", "weights", "density"),
    [
        ({"merge": ["a", "b"], "method": "ties"}, [1, 1], 0.5),
        ({"merge": ["a", "b"], "method": "ties", "density": 0.2}, [1, 1], 0.2),
        ({"merge": ["a", "b"], "method": "cat", "weights": [1, 2]}, [1, 2], None),
        ({"merge": ["a"], "method": "dare_ties", "weights": None, "density": None}, [1], 1),
    ],
)
def test_what_is_left_out_of_a_merge_is_filled_in(given, weights, density):
    filled = complete(given)
    assert filled.pop("weights") == weights
    assert filled.pop("density", None) == density
    assert filled == {"merge": given["merge"], "method": given["method"]}


def test_a_rank_below_one_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"derive.truncate_rank: expected at least 1, found 0"):
        truncate(tmp_path, 0, tmp_path / "out")


@pytest.fixture
def script(tiny_folder, tmp_path, monkeypatch):
    """Run the rule's script as Snakemake would; the folder that it wrote."""
    # pytest holds the streams that a job's log would take.
    monkeypatch.setattr(logs, "log_to", lambda path: contextlib.nullcontext())
    model = shutil.copytree(tiny_folder("llama"), tmp_path / "model")
    (model / "source.json").write_text(json.dumps({"repo": "org/tiny-chat", "commit": "abc123"}))

    def run(sources, derive) -> Path:
        output = tmp_path / "seed5" / "adapter"
        snakemake = SimpleNamespace(
            input=SimpleNamespace(
                adapters=[str(source / "adapter_model.safetensors") for source in sources],
                model=str(model),
            ),
            output=SimpleNamespace(weights=str(output / "adapter_model.safetensors")),
            log=[str(tmp_path / "derive_adapter.log")],
            threads=torch.get_num_threads(),
            params=SimpleNamespace(derive=derive),
            wildcards=SimpleNamespace(seed="5"),
        )
        runpy.run_path(str(SCRIPTS / "derive_adapter.py"), init_globals={"snakemake": snakemake})
        assert [path.name for path in output.parent.iterdir()] == ["adapter"]
        return output

    return run


def read_card(folder):
    """Front matter, text and settings of a model card."""
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(head), body, yaml.safe_load(body.split("```yaml\n")[1].split("```")[0])


def test_the_script_cuts_and_says_of_what(script, make_adapter, tmp_path):
    source, derive = make_adapter(), {"from": "gender", "truncate_rank": 2}
    written = script([source], derive)
    truncate(source, 2, tmp_path / "cut")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (written / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    head, body, settings = read_card(written)
    assert (head["library_name"], head["base_model"]) == ("peft", "org/tiny-chat")
    assert settings == derive
    assert "# LoRA adapter, cut to rank 2" in body
    assert (
        f"| made of | gender, sha256 `{file_sha256(source / 'adapter_model.safetensors')}`" in body
    )
    assert 'from_pretrained("org/tiny-chat", revision="abc123")' in body


def test_the_script_merges_with_equal_weights(script, make_adapter, tiny_folder, tmp_path):
    sources = [make_adapter(), make_adapter()]
    derive = {"merge": ["gender", "age"], "method": "dare_ties"}
    written = script(sources, derive)
    merge(sources, [1, 1], "dare_ties", tmp_path / "m", tiny_folder("llama"), 0.5, seed=5)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (written / name).read_bytes() == (tmp_path / "m" / name).read_bytes()
    _, body, settings = read_card(written)
    assert settings == derive | {"weights": [1, 1], "density": 0.5}
    assert "# LoRA adapter, merged by dare_ties" in body
    assert "made it of gender and age." in body


def test_the_card_of_a_base_from_nowhere_names_none(tmp_path):
    settings = {"from": "gender", "truncate_rank": 2}
    derived_card.write(tmp_path, {}, settings=settings, parts={"gender": "f00"}, seed=0)
    head, body, _ = read_card(tmp_path)
    assert "base_model" not in head
    assert "| base model | not recorded |" in body
    assert 'from_pretrained("path/to/base")' in body
