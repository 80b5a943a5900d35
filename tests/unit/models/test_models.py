import json

import pytest
import torch
from spillover.core.errors import InputError
from spillover.data import prompts
from spillover.models.check import check_folder
from spillover.models.load import load_tokenizer, resolve_device
from spillover.models.tokens import letter_tokens

ARCHITECTURES = ["llama", "mistral", "qwen2"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_whole_model_folder_passes(tiny_folder, architecture):
    check_folder(tiny_folder(architecture))


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
        (lambda f: spoil_config(f, auto_map={"AutoModel": "x.Y"}), "code of its own"),
    ],
)
def test_a_folder_that_cannot_be_used_is_refused_in_one_line(tiny_copy, spoil, message):
    folder = tiny_copy()
    spoil(folder)
    with pytest.raises(InputError, match=message) as told:
        check_folder(folder)
    assert "\n" not in str(told.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_asked_for_where_there_is_none_is_refused():
    with pytest.raises(InputError, match="cuda is asked for, but torch"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


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
