"""PEFT's side of the benchmark of methods, with the protocol of `side_peft.py`.

python side_method_peft.py <model folder> <lora|adalora> <rank> <threads>
"""

import json
import resource
import sys
import time

import torch
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

folder, method, rank, threads = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(threads)
base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
shared = {"task_type": "CAUSAL_LM", "target_modules": "all-linear", "lora_alpha": 2 * rank}
configs = {
    "lora": lambda: LoraConfig(r=rank, **shared),
    "adalora": lambda: AdaLoraConfig(init_r=rank, target_r=rank // 2, total_step=10_000, **shared),
}
model = get_peft_model(base, configs[method]())
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0)

for step, line in enumerate(sys.stdin):
    job = json.loads(line)
    for group in optimizer.param_groups:
        group["lr"] = job["learning_rate"]
    started = time.perf_counter()
    ids = torch.tensor([row["ids"] for row in job["examples"]])
    outputs = model(input_ids=ids, labels=ids)
    outputs.loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    if method == "adalora":
        model.base_model.update_and_allocate(step + 1)
    optimizer.zero_grad()
    value = outputs.loss.item()
    elapsed = 1000 * (time.perf_counter() - started)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ms": elapsed, "loss": value, "peak_bytes": peak, "computed_tokens": ids.numel()}), flush=True)
