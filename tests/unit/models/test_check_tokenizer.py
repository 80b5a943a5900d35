"""A tokenizer is refused for what the study asks of it, and for nothing else."""

import importlib.util
import json

import pytest
import tiny_models
from spillover.core.errors import InputError
from spillover.models.check_tokenizer import EXAMPLE, check_tokenizer
from spillover.models.load import load_tokenizer
from spillover.models.tokens import letter_tokens

LETTER = {"scoring": "letter"}
CLOZE = {"scoring": "cloze"}
NO_END = {"scoring": "cloze", "cloze": {"prompt": "chat", "end_of_turn": False}}
PLAIN = {"scoring": "cloze", "cloze": {"prompt": "plain"}}
GENERATE = {"scoring": "generate"}
FORMS = {
    "letter": LETTER,
    "cloze": CLOZE,
    "no end": NO_END,
    "plain": PLAIN,
    "generate": GENERATE,
    "plain, trained on words": PLAIN | {"pairs": ["cloze"]},
    "plain, trained on letters": PLAIN | {"pairs": ["two_option", "cloze"]},
}


def write(folder, name, **entries):
    """Change a JSON file's entries; None removes one."""
    path = folder / name
    entries = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: v for key, v in entries.items() if v is not None}))


def template(folder, old, new):
    path = folder / "chat_template.jinja"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def no_template(folder):
    (folder / "chat_template.jinja").unlink()


def split_letters(folder):
    template(folder, "{{ message['content'] }}", " {{ message['content'] }}nswer")


def no_end(folder):
    template(folder, "<|im_end|>\n", "")


def joined_end(folder):
    """No special token behind an answer: "." and the end are one."""
    template(folder, "<|im_end|>\n", "...")
    core = folder / "tokenizer.json"
    tokens = json.loads(core.read_text())
    tokens["model"]["vocab"]["...."] = 411
    tokens["model"]["vocab"][".."] = 412
    tokens["model"]["merges"] += [[".", "."], ["..", ".."]]
    core.write_text(json.dumps(tokens))


def no_eos(folder):
    write(folder, "tokenizer_config.json", eos_token=None, pad_token=None)
    write(folder, "generation_config.json", eos_token_id=None)


def no_eos_nor_end(folder):
    no_eos(folder)
    no_end(folder)


def other_tokenizer(folder):
    write(folder, "config.json", vocab_size=300)


def larger_tokenizer(folder):
    """By a word that the example does not have."""
    core = folder / "tokenizer.json"
    tokens = json.loads(core.read_text())
    tokens["model"]["vocab"]["zzz"] = 448
    core.write_text(json.dumps(tokens))


def foreign_template(folder):
    """Writes a token that was added and that the model does not have."""
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<{i}>" for i in range(50)])
    tokenizer.save_pretrained(folder)
    template(folder, "<|im_start|>{{", "<49>{{")


ALL = set(FORMS)
CHAT = ALL - {"plain"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("spoil", "refused", "message"),
    [
        (lambda folder: None, set(), ""),
        (no_template, CHAT, "no chat template"),
        (split_letters, {"letter", "plain, trained on letters"}, "the answer A must be one token"),
        (no_end, {"cloze"}, "set evaluation.cloze.end_of_turn: false"),
        (joined_end, {"no end"}, "joins the end of the answer"),
        (no_eos, set(), ""),
        (no_eos_nor_end, {"cloze", "generate"}, "end"),
        (other_tokenizer, ALL, "outside of the model's vocabulary of 300"),
        (larger_tokenizer, ALL, r"\('zzz'\) is outside of the model's vocabulary"),
        (foreign_template, CHAT, r"\('<49>'\) is outside of the model's vocabulary of 448"),
    ],
)
def test_each_form_needs_what_it_needs(tiny_copy, spoil, refused, message, form):
    folder = tiny_copy()
    spoil(folder)
    if form in refused:
        with pytest.raises(InputError, match=message) as told:
            check_tokenizer(folder, FORMS[form])
        assert "\n" not in str(told.value)
    else:
        check_tokenizer(folder, FORMS[form])


def test_added_tokens_that_the_model_does_not_have_are_no_fault_unless_used(tiny_copy):
    folder = tiny_copy()
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens([f"<{i}>" for i in range(50)])
    tokenizer.save_pretrained(folder)
    for form in FORMS.values():
        check_tokenizer(folder, form)


def test_the_users_arguments_reach_the_template(tiny_copy):
    folder = tiny_copy()
    template(folder, "{% for", "{{ raise_exception('which?') if not kind }}{% for")
    with pytest.raises(InputError, match=r"a question and its answer: .*which\?"):
        check_tokenizer(folder, LETTER)
    check_tokenizer(folder, LETTER, {"kind": "this"})


def test_a_tokenizer_that_cannot_be_read_is_refused_in_one_line(tiny_copy):
    folder = tiny_copy()
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="its tokenizer cannot be loaded") as told:
        check_tokenizer(folder, PLAIN)
    assert "\n" not in str(told.value)


def has(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        return False


def only_sentencepiece(folder, model=b""):
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
            }
        )
    )


@pytest.mark.skipif(
    has("sentencepiece") and has("google.protobuf"), reason="the packages are installed"
)
def test_the_packages_that_a_sentencepiece_model_needs_are_named(tiny_copy):
    folder = tiny_copy()
    only_sentencepiece(folder)
    with pytest.raises(InputError, match="needs the packages sentencepiece and protobuf"):
        check_tokenizer(folder, PLAIN)


@pytest.mark.skipif(
    not (has("sentencepiece") and has("google.protobuf")),
    reason="sentencepiece and protobuf are not installed",
)
def test_a_folder_with_a_sentencepiece_model_alone_is_read(tiny_copy, tmp_path):
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(tiny_models.SENTENCES * 20),
        model_prefix=str(tmp_path / "made"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        user_defined_symbols=["[INST]", "[/INST]"],
    )
    folder = tiny_copy()
    only_sentencepiece(folder, (tmp_path / "made.model").read_bytes())
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
    )
    tokenizer = load_tokenizer(folder)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "made.model"))
    for text in EXAMPLE["options"]:
        assert tokenizer.encode(text, add_special_tokens=False) == model.encode(text)
    letters = tokenizer.convert_ids_to_tokens(letter_tokens(tokenizer))
    assert letters == ["\N{LOWER ONE EIGHTH BLOCK}" + letter for letter in "ABC"]
    for form in FORMS.values():
        check_tokenizer(folder, form)
