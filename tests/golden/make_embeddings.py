"""Losses of sentence embeddings, and their gradients, on the tiny BERT of make_encoders.py, by their formulas in torch.

Run after make_encoders.py, in this folder, with requirements.txt installed:  python make_embeddings.py
`embeddings.expected.safetensors`: five pairs of texts of uneven length as `first.<i>` and `second.<i>`, their `scores`; the
loss `contrastive` (cross-entropy of 20 times the cosines of all second texts with each first one) with the share that is
`nearest`, the loss `cosine` (mean squared error of the pairs' cosines against the scores), and the gradient of each of all
weights as `<loss>.<name>`.
"""

import os
import pathlib

import torch
import transformers as hf
from safetensors.torch import save_file

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)

model = hf.BertModel.from_pretrained("encoders/bert-base", attn_implementation="eager", add_pooling_layer=False).eval()
torch.manual_seed(21)
firsts = [torch.randint(3, 64, (4 + 3 * i,)) for i in range(5)]
seconds = [torch.randint(3, 64, (16 - 2 * i,)) for i in range(5)]
scores = torch.rand(5) * 2 - 1


def embed(texts):
    """The mean of a text's tokens, of length 1; each text by itself, so that no padding is there."""
    means = [model(ids[None]).last_hidden_state[0].mean(0) for ids in texts]
    return torch.nn.functional.normalize(torch.stack(means), dim=1)


tensors = {f"first.{i}": ids for i, ids in enumerate(firsts)} | {f"second.{i}": ids for i, ids in enumerate(seconds)}
for name in ("contrastive", "cosine"):
    model.zero_grad()
    a, b = embed(firsts), embed(seconds)
    if name == "contrastive":
        similar = 20 * a @ b.T
        loss = torch.nn.functional.cross_entropy(similar, torch.arange(5))
        tensors["nearest"] = (similar.argmax(1) == torch.arange(5)).double().mean()
    else:
        loss = torch.nn.functional.mse_loss((a * b).sum(1), scores)
    loss.backward()
    tensors |= {f"{name}.{key}": p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    tensors[name] = loss.detach().double()
save_file(tensors | {"scores": scores}, "embeddings.expected.safetensors")
