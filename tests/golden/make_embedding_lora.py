"""LoRA on embeddings: adapters as PEFT writes them with their logits, and loss curves.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_embedding_lora.py
Files are as make_curves.py describes them.
"""

import os

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

from make_curves import load, save_curve


def make_adapter(base, name, **config):
    torch.manual_seed(7)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key or "lora_embedding" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(name)
    if os.path.exists(f"{name}/README.md"):
        os.remove(f"{name}/README.md")
    ids = torch.randint(0, 64, (2, 12))
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    save_file({"input_ids": ids, "logits": logits.contiguous()}, f"{name}.expected.safetensors")


def make_curve(name, base, **config):
    def make(dtype):
        torch.manual_seed(3)
        options = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, lora_dropout=0.0, **config)
        return get_peft_model(load(base, dtype), options, autocast_adapter_dtype=False)

    save_curve(name, make, steps=10, lr=1e-2, decay_vectors=False)


def main():
    make_adapter("llama-tiny", "peft-embedding", r=4, lora_alpha=8, target_modules=["embed_tokens", "q_proj"])
    make_adapter(
        "llama-rope", "peft-embedding-tied", r=4, lora_alpha=8, use_rslora=True, init_lora_weights="pissa",
        target_modules=["embed_tokens"], rank_pattern={"embed_tokens": 2},
    )
    make_adapter("gpt2-tiny", "peft-embedding-gpt2", r=2, lora_alpha=8, target_modules=["wte", "wpe", "c_attn"], fan_in_fan_out=True)
    make_curve("curve-embedding", "llama-tiny", target_modules=["embed_tokens", "q_proj", "v_proj"])
    make_curve("curve-embedding-tied", "llama-rope", target_modules=["embed_tokens"])


if __name__ == "__main__":
    main()
