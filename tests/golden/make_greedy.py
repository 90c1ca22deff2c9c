"""Greedy text of transformers on the real checkpoints in ../../../shared/models (not part of this repository).

Run in this folder, with requirements.txt installed:  python make_greedy.py
`greedy.json`: for each model 60 new tokens after "Once upon a time", as ids and as text.
`losses.json`: for each model the summed negative log-likelihood and the number of targets of the first 12 stories of
data/tinystories, each stripped of outer white space, from BOS, cut at the model's window.
"""

import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

torch.set_num_threads(1)
shared = pathlib.Path(__file__).parents[3] / "shared"
models = ["stories260k", "babyllama-tok105", "llama2xs-281k"]
stories = (shared / "data/tinystories/stories.txt").read_text().split("<|endoftext|>")[:12]

greedy, losses = {}, {}
for name in models:
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / name)
    model = AutoModelForCausalLM.from_pretrained(shared / "models" / name, dtype=torch.float32)
    prompt = tokenizer("Once upon a time", return_tensors="pt").input_ids
    ids = model.generate(prompt, max_new_tokens=60, do_sample=False)[0, prompt.shape[1] :]
    greedy[name] = {
        "prompt": prompt[0].tolist(),
        "ids": ids.tolist(),
        "text": tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
    }
    rows = []
    for story in stories:
        ids = tokenizer(story.strip(), return_tensors="pt").input_ids[:, : model.config.max_position_embeddings]
        with torch.no_grad():
            loss = model(ids, labels=ids).loss.item()
        rows.append({"nll": loss * (ids.shape[1] - 1), "targets": ids.shape[1] - 1})
    losses[name] = rows

pathlib.Path("greedy.json").write_text(json.dumps(greedy, indent=1) + "\n")
pathlib.Path("losses.json").write_text(json.dumps(losses, indent=1) + "\n")
