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

# What the architectures differ in, beside :data:`SHAPE`. Windows and chunks are shorter than a
# BBQ prompt, caps low enough to bite, so that a test notices when one is left out.
EXPERTS = {"num_experts_per_tok": 2}
SMALL_HEADS = {"head_dim": 16}
MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 1,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_chunk_size": 16,
}
GEMMA2 = SMALL_HEADS | {
    "sliding_window": 48,
    "query_pre_attn_scalar": 16,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 4.0,
    "layer_types": ["sliding_attention", "full_attention"],
}
GEMMA3 = SMALL_HEADS | {
    "sliding_window": 48,
    "query_pre_attn_scalar": 16,
    "layer_types": ["sliding_attention", "full_attention"],
}
LINEAR_ATTENTION = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 8,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
ARCHITECTURES = {
    "llama": {},
    "mistral": {"sliding_window": 48},
    "qwen2": {},
    "qwen3": SMALL_HEADS,
    "phi": {},
    "phi3": {"sliding_window": 48},
    "olmo2": {},
    "gpt2": {"n_positions": 2048},
    "gpt_neox": {},
    "bloom": {},
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2},
    "smollm3": {"no_rope_layers": [1, 0]},
    "granite": {
        "logits_scaling": 4.0,
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.1,
        "residual_multiplier": 0.5,
    },
    "cohere": {"logit_scale": 0.25},
    "cohere2": {
        "logit_scale": 0.25,
        "sliding_window": 48,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "gemma3": {
        "text_config": GEMMA3,
        "vision_config": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "image_size": 28,
            "patch_size": 14,
        },
        "mm_tokens_per_image": 1,
    },
    "llama4_text": SMALL_HEADS
    | {
        "attention_chunk_size": 48,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 128,
        "no_rope_layers": [1, 0],
    },
    "gpt_oss": SMALL_HEADS
    | EXPERTS
    | {
        "num_local_experts": 4,
        "sliding_window": 48,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "qwen3_moe": SMALL_HEADS | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 64},
    "olmoe": EXPERTS | {"num_experts": 4},
    "mixtral": EXPERTS | {"num_local_experts": 4},
    "granitemoe": EXPERTS | {"num_local_experts": 4, "logits_scaling": 4.0},
    "deepseek_v3": EXPERTS
    | {
        "num_key_value_heads": 4,
        "n_routed_experts": 4,
        "n_group": 2,
        "topk_group": 1,
        "moe_intermediate_size": 64,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 32,
        "q_lora_rank": 32,
        "qk_rope_head_dim": 16,
        "qk_nope_head_dim": 16,
        "v_head_dim": 16,
    },
    "qwen3_next": SMALL_HEADS
    | EXPERTS
    | LINEAR_ATTENTION
    | {
        "num_experts": 4,
        "moe_intermediate_size": 64,
        "shared_expert_intermediate_size": 64,
    },
    "falcon_h1": MAMBA | {"mamba_d_ssm": 128, "lm_head_multiplier": 0.5},
    "bamba": MAMBA | {"attn_layer_indices": [1]},
    "jamba": EXPERTS
    | {
        "num_experts": 4,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "mamba_d_state": 16,
        "mamba_dt_rank": 16,
        "use_mamba_kernels": False,
    },
    "lfm2": {
        "block_auto_adjust_ff_dim": False,
        "layer_types": ["conv", "full_attention"],
    },
    "mamba": {"state_size": 16, "time_step_rank": 16},
    "mamba2": {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "chunk_size": 16},
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
    own = ARCHITECTURES[architecture] | changes
    if "text_config" in own:  # a wrapper
        own = own | {"text_config": settings | own["text_config"]}
    config = AutoConfig.for_model(architecture, **(settings | own))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def loaded_bytes(model: torch.nn.Module) -> int:
    """Bytes of a model's weights in memory, scales of NF4 among them."""
    total = 0
    for parameter in model.parameters():
        total += parameter.untyped_storage().nbytes()
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            scales = (state.absmax, state.code, state.offset, state.state2.absmax)
            total += sum(x.nbytes for x in (*scales, state.state2.code))
    return total
