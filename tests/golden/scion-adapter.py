"""Writes <folder>.expected.safetensors: logits of the tiny models with the adapters that Scion wrote, as PEFT computes them
(versions in requirements.txt). Where they have rows of new tokens, the model is given the room first, as PEFT wants it.

Run in this folder, after scion-adapter.ts: python scion-adapter.py
"""

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
for folder, name, rows in [
    ("scion-adapter", "llama-tiny", 64),
    ("scion-tokens", "llama-tiny", 66),
    ("scion-tokens-tied", "llama-rope", 66),
]:
    base = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.tensor([[1, 5, 9, 33, 2, 7], [4, 4, 8, 1, 60, 11]])
    if rows > 64:
        base.resize_token_embeddings(rows)
        ids = torch.tensor([[1, 5, 64, 33, 65, 3], [3, 4, 8, 64, 60, 65]])
    with torch.no_grad():
        plain = base(ids).logits
        model = PeftModel.from_pretrained(base, folder).eval()
        logits = model(ids).logits
    assert (logits - plain).abs().max() > 1e-2
    save_file({"input_ids": ids, "logits": logits.contiguous()}, f"{folder}.expected.safetensors")
