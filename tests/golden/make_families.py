"""A tiny seeded model of every family of architectures, with transformers' logits and PEFT's losses.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_families.py
`families/<model_type>` is a checkpoint in the Hugging Face layout; `families/<name>.expected.safetensors` holds
input_ids [2, 24] and logits [2, 24, 64]; `families/<name>.curve.safetensors` ten steps of LoRA on all linear layers,
as make_curves.py writes them.
"""

import pathlib

import torch
import transformers as hf
from make_curves import curve
from make_models import LLAMA, seeded
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

torch.set_num_threads(1)
folder = pathlib.Path(__file__).parent / "families"

FAMILIES = {
    "mistral": hf.MistralConfig(**LLAMA, sliding_window=6),
    "qwen2": hf.Qwen2Config(**{**LLAMA, "num_hidden_layers": 3}, use_sliding_window=True, sliding_window=6,
                            max_window_layers=2, tie_word_embeddings=True),
    "qwen3": hf.Qwen3Config(**LLAMA),
    "smollm3": hf.SmolLM3Config(**LLAMA, no_rope_layers=[1, 0], pad_token_id=0, bos_token_id=1, eos_token_id=2),
    "gemma": hf.GemmaConfig(**{**LLAMA, "head_dim": 16}),
    "gemma2": hf.Gemma2Config(**LLAMA, sliding_window=6, query_pre_attn_scalar=12, attn_logit_softcapping=5.0,
                              final_logit_softcapping=3.0),
    "gemma3_text": hf.Gemma3TextConfig(**{**LLAMA, "num_hidden_layers": 3}, sliding_window=6,
                                       query_pre_attn_scalar=12, sliding_window_pattern=3),
    "phi3": hf.Phi3Config(**{**LLAMA, "head_dim": 8}, sliding_window=10, pad_token_id=0,
                          rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}),
    "phi3-longrope": hf.Phi3Config(
        **LLAMA, pad_token_id=0, original_max_position_embeddings=16,
        rope_parameters={"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.3, 1.5],
                         "long_factor": [1.0, 2.0, 4.0, 8.0], "original_max_position_embeddings": 16},
    ),
    "gpt_neox": hf.GPTNeoXConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, rotary_pct=0.5, attn_implementation="eager",
    ),
    "gpt_neox-serial": hf.GPTNeoXConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=64, use_parallel_residual=False, hidden_act="relu", attn_implementation="eager",
    ),
}


def main():
    for seed, (name, config) in enumerate(FAMILIES.items(), start=20):
        model = seeded(hf.AutoModelForCausalLM.from_config(config, attn_implementation="eager"), seed)
        model.save_pretrained(folder / name)
        (folder / name / "generation_config.json").unlink(missing_ok=True)
        torch.manual_seed(5)
        ids = torch.randint(0, 64, (2, 24))
        with torch.no_grad():
            logits = model(input_ids=ids).logits
        save_file({"input_ids": ids, "logits": logits.contiguous()}, folder / f"{name}.expected.safetensors")

        torch.manual_seed(3)
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
        tuned = get_peft_model(model, lora, autocast_adapter_dtype=False)
        ids, labels, initial, _, losses, norms = curve(tuned, steps=10, lr=1e-2)
        as64 = lambda values: torch.tensor(values, dtype=torch.float64)
        tensors = {"input_ids": ids, "labels": labels, "loss": as64(losses), "grad_norm": as64(norms)}
        save_file(tensors | initial, folder / f"{name}.curve.safetensors")
        print(name, losses[0], losses[-1])


if __name__ == "__main__":
    main()
