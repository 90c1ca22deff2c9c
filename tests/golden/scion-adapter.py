"""Writes scion-adapter.expected.safetensors: logits of llama-tiny with the adapter that Scion wrote, as PEFT computes
them (versions in requirements.txt).

Run in this folder, after scion-adapter.ts: python scion-adapter.py
"""

import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
base = AutoModelForCausalLM.from_pretrained("llama-tiny", dtype=torch.float32).eval()
ids = torch.tensor([[1, 5, 9, 33, 2, 7], [4, 4, 8, 1, 60, 11]])
with torch.no_grad():
    plain = base(ids).logits
    model = PeftModel.from_pretrained(base, "scion-adapter").eval()
    logits = model(ids).logits
assert (logits - plain).abs().max() > 1e-2
save_file({"input_ids": ids, "logits": logits.contiguous()}, "scion-adapter.expected.safetensors")
