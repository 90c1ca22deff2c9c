"""The peer of the benchmarks: one LoRA step of PEFT for every line on standard input, one JSON line each on output.

python side_peft.py <model folder> <adapter folder> <threads>
A line holds {"examples": [{"ids": [...], "prompt": n}], "learning_rate": x}: a batch, padded to its longest as
transformers' Trainer does, with the loss on what follows the prompts. The answer: {"ms", "loss", "grad_norm",
"peak_bytes", "computed_tokens"}.
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
    for group in optimizer.param_groups:
        group["lr"] = job["learning_rate"]
    started = time.perf_counter()
    rows = job["examples"]
    longest = max(len(row["ids"]) for row in rows)
    pads = [longest - len(row["ids"]) for row in rows]
    ids = torch.tensor([row["ids"] + [0] * pad for row, pad in zip(rows, pads)])
    mask = torch.tensor([[1] * len(row["ids"]) + [0] * pad for row, pad in zip(rows, pads)])
    labels = torch.tensor(
        [[-100] * row["prompt"] + row["ids"][row["prompt"] :] + [-100] * pad for row, pad in zip(rows, pads)]
    )
    loss = model(input_ids=ids, attention_mask=mask if any(pads) else None, labels=labels).loss
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    value = loss.item()
    elapsed = 1000 * (time.perf_counter() - started)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = {"ms": elapsed, "loss": value, "grad_norm": norm.item(), "peak_bytes": peak}
    print(json.dumps({**answer, "computed_tokens": ids.numel()}), flush=True)
