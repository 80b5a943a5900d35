import json

import pytest
import torch
from spillover.core.errors import InputError
from spillover.data import prompts
from spillover.models.check import check_checkpoint, check_folder
from spillover.models.load import load_model, load_tokenizer, resolve_device
from spillover.models.tokens import letter_tokens

ARCHITECTURES = ["llama", "mistral", "qwen2"]
FORMS = {"scoring": "letter", "pairs": ["cloze"]}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_whole_model_folder_passes(tiny_folder, architecture):
    check_folder(tiny_folder(architecture), FORMS)


def test_letters_are_the_tokens_behind_the_template(tiny_folder):
    tokenizer = load_tokenizer(tiny_folder("llama"))
    assert tokenizer.convert_ids_to_tokens(letter_tokens(tokenizer)) == ["A", "B", "C"]


def spoil_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def no_template(folder):
    (folder / "chat_template.jinja").unlink()


def split_letters(folder):
    """A template that goes on with a letter's word: "Answer" is one token."""
    path = folder / "chat_template.jinja"
    said = "{{ message['content'] }}"
    path.write_text(path.read_text().replace(said, f" {said}nswer"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json, found none"),
        (lambda f: (f / "config.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "model.safetensors").unlink(), "weights as"),
        (lambda f: (f / "tokenizer.json").unlink(), "a tokenizer"),
        (no_template, "no chat template"),
        (split_letters, "the answer A must be one token"),
        (lambda f: spoil_config(f, model_type="own", auto_map={"AutoModel": "x.Y"}), "code of its"),
        (
            lambda f: (f / "adapter_config.json").write_text("{}"),
            "expected a model alone, found a PEFT adapter .* name it under alignments, as adapter:",
        ),
        (
            lambda f: (f / "config.json").rename(f / "adapter_config.json"),
            "expected a model, found a PEFT adapter; name its base here, and the adapter under",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tiny_copy, spoil, message):
    folder = tiny_copy()
    spoil(folder)
    with pytest.raises(InputError, match=message) as told:
        check_folder(folder, FORMS)
    assert "\n" not in str(told.value)


def test_a_model_that_names_code_but_needs_none_passes_and_runs_none(tiny_copy):
    folder = tiny_copy()
    spoil_config(folder, auto_map={"AutoModelForCausalLM": "modeling_own.Own"})
    (folder / "modeling_own.py").write_text("raise SystemExit('code of the model ran')")
    check_folder(folder, FORMS)
    load_model(folder, "none", "float32", "cpu")


def test_a_checkpoint_beside_its_base_may_have_no_tokenizer(tiny_copy):
    folder = tiny_copy()
    (folder / "tokenizer.json").unlink()
    check_checkpoint(folder, FORMS)
    spoil_config(folder, num_hidden_layers=3)
    with pytest.raises(InputError, match=r"of its architecture not in its files"):
        check_checkpoint(folder, FORMS)


@pytest.mark.parametrize("pad", [448, 9999, -1])
def test_a_padding_token_outside_of_the_embedding_is_left_out(tiny_copy, pad):
    folder = tiny_copy()
    expected = load_model(folder, "none", "float32", "cpu")
    spoil_config(folder, pad_token_id=pad)
    check_folder(folder, FORMS)
    model = load_model(folder, "none", "float32", "cpu")
    ids = torch.tensor([[40, 50, 60]])
    with torch.inference_mode():
        assert torch.equal(model(ids).logits, expected(ids).logits)


def test_links_to_what_is_gone_are_told(tiny_folder, tmp_path):
    (tmp_path / "model").mkdir()
    for file in tiny_folder("llama").iterdir():
        (tmp_path / "model" / file.name).symlink_to(file)
    (tmp_path / "model" / "config.json").unlink()
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "cache" / "config.json")
    for load in (load_tokenizer, load_model):
        with pytest.raises(InputError, match=r"links to .*, which is gone; delete .* to have it"):
            load(tmp_path / "model")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_asked_for_where_there_is_none_is_refused():
    with pytest.raises(InputError, match="cuda is asked for, but torch"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
@pytest.mark.parametrize(
    ("visible", "told"), [("GPU-3a1c", True), ("1", True), ("", False), ("-1", False)]
)
def test_a_job_with_a_gpu_that_torch_does_not_find_says_so(monkeypatch, caplog, visible, told):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resolve_device("auto").type == "cpu"
    assert ("the CPU computes" in caplog.text) == told


ITEM = {"context": "C.", "question": "Q?", "options": ["zero", "one", "two"]}


def test_a_permutation_names_the_option_at_each_place():
    text = prompts.multiple_choice(ITEM, "120")[0]["content"]
    assert "A. one\nB. two\nC. zero\n" in text
    assert prompts.letter_of(0, "120") == "C"


def test_orders_show_every_option_at_every_place_equally_often():
    for name, n in (("cyclic", 1), ("all", 2)):
        for place in range(3):
            options = [order[place] for order in prompts.ORDERS[name]]
            assert sorted(options) == sorted("012" * n)
