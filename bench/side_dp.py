"""DP-SGD by a loop of single examples in torch, with the protocol of bench/side_peft.py.

python side_dp.py <model folder> <rank> <threads>
"""

import json
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

folder, rank, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(threads)
base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
model = get_peft_model(base, LoraConfig(r=rank, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0)
clip, noise = 1.0, 1.0

for line in sys.stdin:
    job = json.loads(line)
    for group in optimizer.param_groups:
        group["lr"] = job["learning_rate"]
    started = time.perf_counter()
    rows = job["examples"]
    sums = [torch.zeros_like(p) for p in trained]
    total = 0.0
    for row in rows:
        ids = torch.tensor([row["ids"]])
        labels = ids.clone()
        labels[:, : row["prompt"]] = -100
        loss = model(input_ids=ids, labels=labels).loss
        gradients = torch.autograd.grad(loss, trained)
        norm = torch.sqrt(sum((g * g).sum() for g in gradients))
        factor = min(1.0, clip / (norm.item() + 1e-6))
        for s, g in zip(sums, gradients):
            s.add_(g, alpha=factor)
        total += loss.item()
    for p, s in zip(trained, sums):
        p.grad = (s + noise * clip * torch.randn_like(s)) / len(rows)
    optimizer.step()
    optimizer.zero_grad()
    elapsed = 1000 * (time.perf_counter() - started)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = {"ms": elapsed, "loss": total / len(rows), "grad_norm": 0.0, "peak_bytes": peak}
    print(json.dumps({**answer, "computed_tokens": sum(len(row["ids"]) for row in rows)}), flush=True)
