"""Adapters and loss curves of PEFT and torch on the tiny models, from given weights and a given order of batches.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_curves.py
`peft-*` are adapters as PEFT writes them, with `<folder>.expected.safetensors` (input_ids, logits).
`curve-*.safetensors` hold input_ids and labels [batches, 2, 16] (-100 where nothing is learnt), the initial trainable
tensors as `initial.<name>`, the loss and the gradient norm of each update, and the loss in float64 as `loss64`.
"""

import os
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)  # so that adapters name their base by its folder alone


def load(name, dtype=torch.float32):
    return AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation="eager")


def make_adapter(base, name, **config):
    torch.manual_seed(7)
    model = get_peft_model(load(base), LoraConfig(task_type="CAUSAL_LM", **config))
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.copy_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(name)
    os.remove(f"{name}/README.md")
    ids = torch.randint(0, 64, (2, 12))
    model.eval()
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    save_file({"input_ids": ids, "logits": logits.contiguous()}, f"{name}.expected.safetensors")


def batches(count):
    torch.manual_seed(11)
    ids = torch.randint(0, 64, (count, 2, 16))
    ids[:, :, 8:] = ids[:, :, :8]  # something to learn: the second half repeats the first
    labels = ids.clone()
    for i in range(count):
        labels[i, 0, : 1 + i % 7] = -100
        labels[i, 1, : 2 + i % 5] = -100
    return ids, labels


def adamw(groups, lr):
    return torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.999), eps=1e-8, foreach=False)


def curve(
    model, steps, lr, accumulate=1, schedule=None, decay_vectors=True, weight_decay=0.01, rate=lambda name: 1, rule=adamw
):
    """Sums of token losses divided by the labels of the whole update, as Trainer does with num_items_in_batch."""
    ids, labels = batches(steps * accumulate)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    initial = {f"initial.{n}": p.detach().clone().float() for n, p in trained}
    decays = lambda p: decay_vectors or p.ndim >= 2
    groups = [{"params": [p], "lr": lr * rate(n), "weight_decay": weight_decay if decays(p) else 0.0} for n, p in trained]
    optimizer = rule(groups, lr)
    scheduler = schedule(optimizer) if schedule else None
    losses, norms = [], []
    model.train()
    for step in range(steps):
        part = slice(step * accumulate, (step + 1) * accumulate)
        targets = (labels[part][:, :, 1:] != -100).sum()
        total = 0.0
        for x, y in zip(ids[part], labels[part]):
            logits = model(input_ids=x).logits[:, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits.reshape(-1, logits.shape[-1]), y[:, 1:].reshape(-1), ignore_index=-100, reduction="sum"
            )
            loss = loss / targets
            loss.backward()
            total += loss.item()
        norms.append(torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0).item())
        optimizer.step()
        if scheduler:
            scheduler.step()
        optimizer.zero_grad()
        losses.append(total)
    final = {f"final.{n}": p.detach().clone().float() for n, p in trained}
    return ids, labels, initial, final, losses, norms


def save_curve(name, make, **options):
    ids, labels, initial, final, losses, norms = curve(make(torch.float32), **options)
    double = make(torch.float64)
    with torch.no_grad():
        for key, parameter in double.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(initial[f"initial.{key}"].double())
    exact = curve(double, **options)[4]
    as64 = lambda values: torch.tensor(values, dtype=torch.float64)
    tensors = {"input_ids": ids, "labels": labels, "loss": as64(losses), "grad_norm": as64(norms), "loss64": as64(exact)}
    save_file(tensors | initial | final, f"{name}.safetensors")


def main():
    make_adapter("llama-tiny", "peft-llama", r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"])
    make_adapter("llama-tiny", "peft-all-linear", r=2, lora_alpha=16, target_modules="all-linear")
    make_adapter("gpt2-tiny", "peft-gpt2", r=4, lora_alpha=8, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)

    make_adapter("llama-tiny", "peft-dora", r=4, lora_alpha=8, target_modules=["q_proj", "o_proj"], use_dora=True)
    make_adapter("llama-tiny", "peft-rslora", r=4, lora_alpha=8, target_modules=["v_proj"], use_rslora=True)
    make_adapter(
        "gpt2-tiny", "peft-dora-gpt2", r=4, lora_alpha=8, target_modules=["c_attn"], fan_in_fan_out=True, use_dora=True
    )
    make_adapter("llama-rope", "peft-dora-bias", r=2, lora_alpha=8, target_modules="all-linear", use_dora=True)

    make_adapter(
        "llama-tiny", "peft-patterns", r=4, lora_alpha=8, target_modules=["q_proj", "o_proj", "down_proj"],
        rank_pattern={"down_proj": 2, "layers.0.self_attn.q_proj": 6}, alpha_pattern={"o_proj": 3, r"layers\.1\.self_attn\.q_proj": 5},
    )

    def lora(dtype, **options):
        torch.manual_seed(3)
        given = {"r": 8, "lora_alpha": 16, "target_modules": "all-linear"} | options
        config = LoraConfig(task_type="CAUSAL_LM", **given)
        return get_peft_model(load("llama-tiny", dtype), config, autocast_adapter_dtype=False)

    save_curve("curve-lora", lora, steps=50, lr=1e-2)
    save_curve("curve-dora", lambda dtype: lora(dtype, use_dora=True), steps=50, lr=1e-2)
    save_curve("curve-rslora", lambda dtype: lora(dtype, use_rslora=True), steps=50, lr=2e-3)
    # As PEFT's create_loraplus_optimizer: B learns this many times as fast as A.
    save_curve("curve-loraplus", lora, steps=50, lr=2e-3, rate=lambda name: 4 if "lora_B" in name else 1)
    # Stochastic gradient descent, whose rule is torch's without dampening.
    for name, options in {"momentum": {"momentum": 0.9}, "nesterov": {"momentum": 0.8, "nesterov": True}, "plain": {}}.items():
        rule = lambda groups, lr, options=options: torch.optim.SGD(groups, lr=lr, foreach=False, **options)
        save_curve(f"curve-sgd-{name}", lora, steps=30, lr=0.05, weight_decay=0.02, rule=rule)
    few = lambda dtype: lora(dtype, r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
    rule = lambda groups, lr: torch.optim.AdamW(groups, lr=lr, betas=(0.6, 0.9), eps=1e-2, foreach=False)
    save_curve("curve-adamw-betas", few, steps=20, lr=2e-2, weight_decay=0.2, rule=rule)
    save_curve(
        "curve-lora-accumulated",
        lora,
        steps=25,
        lr=1e-2,
        accumulate=2,
        schedule=lambda optimizer: get_cosine_schedule_with_warmup(optimizer, 5, 25),
    )
    full = lambda name: lambda dtype: load(name, dtype)
    save_curve("curve-full-llama", full("llama-tiny"), steps=10, lr=1e-3, decay_vectors=False, weight_decay=0.1)
    save_curve("curve-full-gpt2", full("gpt2-tiny"), steps=10, lr=1e-3, decay_vectors=False, weight_decay=0.1)


if __name__ == "__main__":
    main()
