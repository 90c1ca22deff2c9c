"""AdaLoRA in PEFT: an adapter as PEFT writes it, and 50 updates of a tiny model with everything pruning decides.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_adalora.py
`curve-adalora.safetensors` holds input_ids and labels [50, 2, 16], the trainable tensors as `initial.<name>` and
`final.<name>`, and of each update the task's loss, the penalty, the gradient norm, the budget and, for every module in
order of its name, which triplets were left (`kept` [50, modules, init_r]).
`peft-adalora` is the adapter after them, with `peft-adalora.expected.safetensors` (input_ids, logits).
"""

import os
import pathlib

import torch
from peft import AdaLoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from make_curves import batches

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)
STEPS = 50


def run(base, folder, form_weight=0.3, **targets):
    torch.manual_seed(5)
    config = AdaLoraConfig(
        task_type="CAUSAL_LM", init_r=6, target_r=3, tinit=5, tfinal=15, deltaT=3, total_step=STEPS, lora_alpha=12,
        orth_reg_weight=form_weight, **targets,
    )
    loaded = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    model = get_peft_model(loaded, config, autocast_adapter_dtype=False)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    initial = {f"initial.{n}": p.detach().clone() for n, p in trained}
    singular = sorted((n, p) for n, p in trained if "lora_E" in n)
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01, foreach=False)
    ids, labels = batches(STEPS)
    rows = {"loss": [], "penalty": [], "grad_norm": [], "budget": [], "kept": []}
    model.train()
    for step in range(STEPS):
        outputs = model(input_ids=ids[step], labels=labels[step])
        logits = outputs.logits[:, :-1]
        task = torch.nn.functional.cross_entropy(
            logits.reshape(-1, logits.shape[-1]), labels[step][:, 1:].reshape(-1), ignore_index=-100
        )
        outputs.loss.backward()
        rows["loss"].append(task.item())
        rows["penalty"].append((outputs.loss - task).item())
        rows["grad_norm"].append(torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0).item())
        optimizer.step()
        model.base_model.update_and_allocate(step)
        optimizer.zero_grad()
        rows["budget"].append(model.base_model.rankallocator.budget_schedule(step)[0])
        rows["kept"].append(torch.stack([p.detach().flatten() != 0 for _, p in singular]))
    final = {f"final.{n}": p.detach().clone() for n, p in trained}
    model.save_pretrained(folder)
    os.remove(f"{folder}/README.md")
    model.eval()
    torch.manual_seed(9)
    ids_out = torch.randint(0, 64, (2, 12))
    with torch.no_grad():
        logits = model(input_ids=ids_out).logits
    save_file({"input_ids": ids_out, "logits": logits.contiguous()}, f"{folder}.expected.safetensors")
    kept = torch.stack(rows.pop("kept"))
    tensors = {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}
    return {"input_ids": ids, "labels": labels, "kept": kept, **tensors, **initial, **final}


if __name__ == "__main__":
    curve = run("llama-tiny", "peft-adalora", target_modules="all-linear")
    save_file(curve, "curve-adalora.safetensors")
    print(curve["kept"].sum((1, 2)).tolist())
    print(curve["kept"][-1].sum(1).tolist())
    run("gpt2-tiny", "peft-adalora-gpt2", target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
