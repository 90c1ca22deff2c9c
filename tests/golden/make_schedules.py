"""Writes schedules.json: learning rates of transformers' schedulers (versions in requirements.txt).

Run in this folder: python make_schedules.py
"""

import json

import torch
from transformers import get_scheduler

cases = []
for name in ["constant_with_warmup", "linear", "cosine"]:
    for warmup, total in [(0, 10), (3, 10), (10, 10), (4, 25)]:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=0.003)
        scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
        rates = []
        for _ in range(total):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
        cases.append({"schedule": name.split("_")[0], "warmupSteps": warmup, "totalSteps": total, "rates": rates})
with open("schedules.json", "w") as file:
    json.dump(cases, file, indent=1)
    file.write("\n")
