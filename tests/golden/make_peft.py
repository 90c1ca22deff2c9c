"""Adapters of PEFT with options beyond LoRA's own, and loss curves with them, on the tiny models.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_peft.py
Files are as make_curves.py describes them; tensors that were trained in place are `initial.<the base model's name>`.
"""

import os
import re

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from make_curves import load, save_curve


def shaken(model, everything):
    """Every trained tensor (but A, unless `everything`) moved away from where it starts."""
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if parameter.requires_grad and (everything or "lora_A" not in key):
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return model


def make_adapter(base, name, everything=False, **config):
    torch.manual_seed(7)
    model = shaken(get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config)), everything)
    model.save_pretrained(name)
    os.remove(f"{name}/README.md")
    ids = torch.randint(0, 64, (2, 12))
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    save_file({"input_ids": ids, "logits": logits.contiguous()}, f"{name}.expected.safetensors")


def make_curve(name, base, steps=50, lr=2e-3, **config):
    def make(dtype):
        torch.manual_seed(3)
        options = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, **config)
        # PiSSA refuses float64, so it is made in float32.
        return get_peft_model(load(base), options).to(dtype)

    save_curve(name, make, steps=steps, lr=lr, decay_vectors=False)
    plain = lambda key: key if "lora_" in key else re.sub(r"base_model\.model\.|\.modules_to_save\.default|\.base_layer", "", key)
    save_file({plain(key): tensor for key, tensor in load_file(f"{name}.safetensors").items()}, f"{name}.safetensors")


def make_mix():
    """Two adapters and their weighted sums by add_weighted_adapter: `<how>` are logits."""
    torch.manual_seed(8)
    a = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    b = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    model = get_peft_model(load("llama-tiny"), a, adapter_name="a")
    model.add_adapter("b", b)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained("peft-mix", selected_adapters=["a", "b"])
    for name in ["a", "b"]:
        os.remove(f"peft-mix/{name}/README.md") if os.path.exists(f"peft-mix/{name}/README.md") else None
    if os.path.exists("peft-mix/README.md"):
        os.remove("peft-mix/README.md")
    tensors = {"input_ids": torch.randint(0, 64, (2, 12))}
    options = {"cat": {}, "linear": {}, "svd": {"svd_rank": 3}}
    model.eval()
    for how, more in options.items():
        model.add_weighted_adapter(["a", "b"], [0.7, -0.4], how, combination_type=how, **more)
        model.set_adapter(how)
        with torch.no_grad():
            tensors[how] = model(input_ids=tensors["input_ids"]).logits.contiguous()
    save_file(tensors, "peft-mix.expected.safetensors")


def main():
    make_mix()
    make_adapter("llama-tiny", "peft-whole", r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head", "model.norm"])
    make_adapter("llama-rope", "peft-whole-tied", r=2, lora_alpha=4, target_modules=["q_proj", "o_proj"], modules_to_save=["lm_head"], bias="lora_only")
    make_adapter("llama-rope", "peft-bias", r=2, lora_alpha=4, target_modules="all-linear", modules_to_save=["embed_tokens"], bias="all")
    make_adapter("gpt2-tiny", "peft-bias-gpt2", r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["wte"], bias="all")
    make_curve("curve-whole", "llama-tiny", target_modules=["q_proj", "v_proj"], modules_to_save=["lm_head", "model.norm"])
    make_curve("curve-bias", "llama-rope", target_modules=["q_proj", "down_proj"], modules_to_save=["embed_tokens"], bias="all")

    part = dict(everything=True, r=4, lora_alpha=6)
    make_adapter("llama-tiny", "peft-pissa", **part, target_modules=["q_proj", "down_proj"], init_lora_weights="pissa", rank_pattern={"down_proj": 3})
    make_adapter("gpt2-tiny", "peft-pissa-gpt2", **part, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights="pissa")
    make_adapter("llama-tiny", "peft-olora", **part, target_modules=["v_proj", "gate_proj"], init_lora_weights="olora", use_rslora=True)
    make_adapter("llama-tiny", "peft-pissa-dora", **part, target_modules=["o_proj"], init_lora_weights="pissa", use_dora=True)
    # Nothing is drawn here: what starts from the weights starts alike everywhere.
    make_curve("curve-pissa", "llama-tiny", target_modules="all-linear", init_lora_weights="pissa")
    make_curve("curve-olora", "llama-tiny", target_modules="all-linear", init_lora_weights="olora", lr=1e-3)


if __name__ == "__main__":
    main()
