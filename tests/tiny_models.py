"""Tiny random chat models with a tokenizer, made in code: nothing is downloaded."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SENTENCES = [
    "Read the context and answer the question with the letter of the right option.",
    "Context: I saw a grandson and his grandfather last week outside the store.",
    "Question: Who was not comfortable using the phone? Answer:",
    "The grandfather. The grandson. Not enough information. Can't be determined. Unknown.",
    "user assistant system A. B. C.",
]

# What the architectures differ in. Mistral's window is shorter than a BBQ prompt, so that a
# test notices when it is left out.
ARCHITECTURES = {
    "llama": {},
    "mistral": {"sliding_window": 48},
    "qwen2": {},
}


# What a plain text's end and an answer's beginning are joined from.
JOINED = ["What?\nA: The grandson", "Who?\nA: The grandfather"]


def tokenizer(pad_is_eos: bool = False, joins: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE with ChatML, in which A, B and C are single tokens.

    Parameters
    ----------
    joins : whether tokens may reach over the spaces between words, as ``: T`` does.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not joins)
    core.decoder = decoders.ByteLevel()
    core.train_from_iterator(
        SENTENCES + JOINED * 20 if joins else SENTENCES,
        trainers.BpeTrainer(
            vocab_size=448,
            special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|im_end|>",
        pad_token="<|im_end|>" if pad_is_eos else "<|endoftext|>",
        chat_template=CHATML,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def make(
    folder: str | Path,
    architecture: str,
    seed: int = 0,
    pad_is_eos: bool = False,
    **changes,
) -> Path:
    """Write a model folder (config, safetensors, tokenizer) and return it.

    Parameters
    ----------
    architecture : ``llama``, ``mistral`` or ``qwen2``: two layers, hidden size 64, shapes
        that bitsandbytes can quantise (in-features divisible by 64, out-features by 32).
    pad_is_eos : whether padding and end of turn are one token, as in many chat models.
    changes : entries of the configuration to change, e.g. ``num_hidden_layers=4``.
    """
    folder = Path(folder)
    words = tokenizer(pad_is_eos)
    settings = {
        "vocab_size": 448,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "tie_word_embeddings": False,
        # Larger than usual, so that answers of the random model differ between prompts.
        "initializer_range": 0.2,
    }
    config = AutoConfig.for_model(
        architecture, **(settings | ARCHITECTURES[architecture] | changes)
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
