"""The peer of `step.bench.ts`: one LoRA step of PEFT for every line on standard input, one JSON line each on output.

python step_peft.py <model folder> <adapter folder> <threads>
A line holds {"ids": [...], "learning_rate": x}; the answer {"ms", "loss", "grad_norm", "peak_bytes"}.
"""

import json
import resource
import sys
import time

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

folder, adapter, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(threads)
base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1.0, weight_decay=0.0)

for line in sys.stdin:
    job = json.loads(line)
    ids = torch.tensor([job["ids"]])
    for group in optimizer.param_groups:
        group["lr"] = job["learning_rate"]
    started = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    value = loss.item()
    elapsed = 1000 * (time.perf_counter() - started)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"ms": elapsed, "loss": value, "grad_norm": norm.item(), "peak_bytes": peak}), flush=True)
