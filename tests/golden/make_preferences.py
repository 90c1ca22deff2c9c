"""Loss curves of preference tuning on the tiny Llama by torch and PEFT, with the losses as TRL's DPOTrainer writes them.

Run after make_models.py, in this folder, with requirements.txt installed:  python make_preferences.py
`curve-<loss>.safetensors` hold ids and labels of the chosen answers [4, 2, 16] and of the rejected ones [4, 2, 12]
(-100 where nothing is learnt; batches are taken in turn), the initial trainable tensors as `initial.<name>`, and for each update
the loss, the gradient norm, and the rewards of TRL's metrics; `loss64` is the loss in float64.
"""

import os
import pathlib

import torch
import torch.nn.functional as F
from make_curves import load
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)
updates, batches, pairs = 20, 4, 2


def data():
    torch.manual_seed(17)
    sides = {}
    for side, length in (("chosen", 16), ("rejected", 12)):
        ids = torch.randint(0, 64, (batches, pairs, length))
        labels = ids.clone()
        sides[side] = (ids, labels)
    for i in range(batches):
        for j in range(pairs):
            prompt = 3 + (i + 2 * j) % 5
            chosen, rejected = sides["chosen"], sides["rejected"]
            rejected[0][i, j, :prompt] = chosen[0][i, j, :prompt]  # the same prompt in front of both
            chosen[1][i, j, :prompt] = -100
            rejected[1][i, j, :prompt] = -100
            rejected[1][i, j, prompt:] = rejected[0][i, j, prompt:]
    return sides


def log_likelihood(model, ids, labels, average):
    mask = labels[:, 1:] != -100
    logps = torch.gather(model(input_ids=ids).logits[:, :-1].log_softmax(-1), 2, ids[:, 1:, None])[..., 0]
    sums = (logps * mask).sum(-1)
    return sums / mask.sum(-1) if average else sums


def lossOf(kind, ratios, beta, smoothing):
    """trl/trainer/dpo_trainer.py: `sigmoid` with label smoothing, and `ipo`."""
    logits = ratios["chosen"] - ratios["rejected"]
    if kind == "ipo":
        return (logits - 1 / (2 * beta)) ** 2
    return -F.logsigmoid(beta * logits) * (1 - smoothing) - F.logsigmoid(-beta * logits) * smoothing


def curve(dtype, kind, beta, smoothing=0.0):
    torch.manual_seed(3)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
    model = get_peft_model(load("llama-tiny", torch.float32), config, autocast_adapter_dtype=False).to(dtype)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    initial = {f"initial.{n}": p.detach().clone().float() for n, p in trained}
    optimizer = torch.optim.AdamW([p for _, p in trained], lr=5e-3, weight_decay=0.0, eps=1e-8, foreach=False)
    sides = data()
    rows = {name: [] for name in ("loss", "grad_norm", "reward_chosen", "reward_rejected", "reward_margin", "reward_accuracy")}
    model.train()
    for i in range(updates):
        ratios = {}
        for side, (ids, labels) in sides.items():
            policy = log_likelihood(model, ids[i % batches], labels[i % batches], kind == "ipo")
            with torch.no_grad(), model.disable_adapter():
                reference = log_likelihood(model, ids[i % batches], labels[i % batches], kind == "ipo")
            ratios[side] = policy - reference
        loss = lossOf(kind, ratios, beta, smoothing).mean()
        loss.backward()
        rows["grad_norm"].append(torch.nn.utils.clip_grad_norm_([p for _, p in trained], 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        chosen, rejected = (beta * ratios[side].detach() for side in ("chosen", "rejected"))
        rows["loss"].append(loss.item())
        rows["reward_chosen"].append(chosen.mean().item())
        rows["reward_rejected"].append(rejected.mean().item())
        rows["reward_margin"].append((chosen - rejected).mean().item())
        rows["reward_accuracy"].append((chosen > rejected).to(dtype).mean().item())
    flat = {f"{side}.{part}": value for side, (ids, labels) in sides.items() for part, value in (("ids", ids), ("labels", labels))}
    return initial | flat, {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}


for name, options in {
    "dpo": {"kind": "sigmoid", "beta": 0.1},
    "dpo-smoothed": {"kind": "sigmoid", "beta": 0.3, "smoothing": 0.1},
    "ipo": {"kind": "ipo", "beta": 0.2},
}.items():
    fixed, rows = curve(torch.float32, **options)
    exact = curve(torch.float64, **options)[1]
    save_file(fixed | rows | {"loss64": exact["loss"], "grad_norm64": exact["grad_norm"]}, f"curve-{name}.safetensors")
