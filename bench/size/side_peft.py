"""PEFT at the size of `npm run bench:size`: opening, then updates of LoRA on one row of tokens.

python side_peft.py <model folder> <float32|bfloat16> <tokens> <updates> <threads>
Prints one JSON line: {"opened": s, "update": s (the median but for the first), "loss"}; the peak goes to the file that
SCION_PEAK names.
"""

import json
import os
import resource
import statistics
import sys
import time

started = time.perf_counter()
import torch  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import AutoModelForCausalLM  # noqa: E402

folder, dtype, tokens, updates, threads = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
torch.set_num_threads(threads)
base = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
model.train()
trained = [p for p in model.parameters() if p.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
opened = time.perf_counter() - started

ids = torch.randint(0, 1000, (1, tokens), generator=torch.Generator().manual_seed(0))
seconds = []
for _ in range(updates):
    begun = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(trained, 1.0)
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.perf_counter() - begun)
print(json.dumps({"opened": opened, "update": statistics.median(seconds[1:] or seconds), "loss": loss.item()}))
with open(os.environ["SCION_PEAK"], "w") as file:
    file.write(str(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
