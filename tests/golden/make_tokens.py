"""Adapters of PEFT with trained tokens, on vocabularies as they are and grown, and loss curves with them.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_tokens.py
Files are as make_peft.py describes them; trained rows are `initial.<module>.trainable_tokens`.
"""

import os
import re

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from make_curves import load, save_curve
from make_peft import shaken


def grown(base, rows, dtype=torch.float32):
    torch.manual_seed(5)
    model = load(base, dtype)
    if rows:
        model.resize_token_embeddings(rows)
    return model


def make_adapter(base, name, rows=0, **config):
    model = grown(base, rows)
    torch.manual_seed(7)
    model = shaken(get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, lora_alpha=4, **config)), False)
    model.save_pretrained(name)
    if os.path.exists(f"{name}/README.md"):
        os.remove(f"{name}/README.md")
    ids = torch.randint(0, rows or 64, (2, 12))
    ids[0, :6] = torch.tensor([2, 5, 9, (rows or 64) - 1, (rows or 64) - 2, 5])
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    save_file({"input_ids": ids, "logits": logits.contiguous()}, f"{name}.expected.safetensors")


def make_curve(name, base, steps=50, lr=5e-3, **config):
    def make(dtype):
        torch.manual_seed(3)
        options = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, **config)
        return get_peft_model(load(base, dtype), options).to(dtype)

    save_curve(name, make, steps=steps, lr=lr, decay_vectors=False)

    def plain(key):
        if "lora_" in key:
            return key
        key = re.sub(r"base_model\.model\.", "", key)
        return re.sub(r"\.(token_adapter\.)?trainable_tokens_delta\.default", ".trainable_tokens", key)

    save_file({plain(key): tensor for key, tensor in load_file(f"{name}.safetensors").items()}, f"{name}.safetensors")


def main():
    both = {"embed_tokens": [3, 9, 5], "lm_head": [9, 2]}
    make_adapter("llama-tiny", "peft-tokens", target_modules=["q_proj"], trainable_token_indices=both)
    make_adapter("llama-rope", "peft-tokens-tied", target_modules=["q_proj"], trainable_token_indices=[5, 9, 2])
    make_adapter("gpt2-tiny", "peft-tokens-gpt2", target_modules=["c_attn"], fan_in_fan_out=True, trainable_token_indices=[5, 63])
    new = [64, 65, 66]
    make_adapter("llama-tiny", "peft-tokens-grown", 67, target_modules=["q_proj"], trainable_token_indices={"embed_tokens": new, "lm_head": new})
    make_adapter("llama-rope", "peft-tokens-grown-tied", 67, target_modules=["q_proj"], trainable_token_indices=new)
    make_adapter("llama-rope", "peft-grown-tied", 67, target_modules=["q_proj"])
    make_adapter("llama-tiny", "peft-grown-whole", 67, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    seen = [1, 17, 40]
    make_curve("curve-tokens", "llama-tiny", target_modules=["q_proj", "v_proj"], trainable_token_indices={"embed_tokens": seen, "lm_head": seen})
    make_curve("curve-tokens-tied", "llama-rope", target_modules=["q_proj", "v_proj"], trainable_token_indices=seen)


if __name__ == "__main__":
    main()
