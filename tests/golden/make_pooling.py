"""Sentence embeddings pooled in every way, with what follows, on the tiny BERT of make_encoders.py, by their formulas in torch.

Run after make_encoders.py, in this folder, with requirements.txt installed:  python make_pooling.py
`pooling.expected.safetensors`: three pairs of texts of uneven length as `first.<i>` and `second.<i>` and their `scores`; the
tensors of two Dense modules (`dense.<n>.weight`, `dense.<n>.bias`); and for each case below the embeddings of the texts, first
ones first, of length 1, with the mean squared error of the pairs' cosines (`<case>.loss`) and its gradient of the word
embeddings and of one query matrix.
"""

import os
import pathlib

import torch
import transformers as hf
from safetensors.torch import save_file

torch.set_num_threads(1)
os.chdir(pathlib.Path(__file__).parent)

model = hf.BertModel.from_pretrained("encoders/bert-base", attn_implementation="eager", add_pooling_layer=False).eval()
torch.manual_seed(33)
firsts = [torch.randint(3, 64, (4 + 3 * i,)) for i in range(3)]
seconds = [torch.randint(3, 64, (12 - 4 * i,)) for i in range(3)]
scores = torch.rand(3) * 2 - 1
# Each module as it stands behind two ways of pooling (64 numbers) and behind the other.
dense = [(torch.randn(24, 64) / 8, torch.randn(24) / 8), (torch.randn(10, 24) / 5, None)]

pools = {
    "cls": lambda h: h[0],
    "max": lambda h: h.max(0).values,
    "mean": lambda h: h.mean(0),
    "mean_sqrt_len_tokens": lambda h: h.sum(0) / len(h) ** 0.5,
    "weightedmean": lambda h: (h * torch.arange(1.0, len(h) + 1)[:, None]).sum(0) / torch.arange(1.0, len(h) + 1).sum(),
    "lasttoken": lambda h: h[-1],
}
cases = {name: ([name], []) for name in pools}
cases["cls+max+mean+mean_sqrt_len_tokens+weightedmean+lasttoken"] = (list(pools), [])
cases["dense"] = (["mean", "lasttoken"], ["normalize", "dense0", "dense1"])


def embed(ids, ways, layers):
    """Each text by itself, so that no padding is there."""
    hidden = model(ids[None]).last_hidden_state[0]
    x = torch.cat([pools[way](hidden) for way in ways])
    for layer in layers:
        if layer == "normalize":
            x = torch.nn.functional.normalize(x, dim=0)
        else:
            weight, bias = dense[int(layer[-1])]
            x = weight @ x if bias is None else torch.tanh(weight @ x + bias)
    return torch.nn.functional.normalize(x, dim=0)


tensors = {f"first.{i}": ids for i, ids in enumerate(firsts)} | {f"second.{i}": ids for i, ids in enumerate(seconds)}
for n, (weight, bias) in enumerate(dense):
    tensors |= {f"dense.{n}.weight": weight} | ({} if bias is None else {f"dense.{n}.bias": bias})
for name, (ways, layers) in cases.items():
    model.zero_grad()
    all_texts = torch.stack([embed(ids, ways, layers) for ids in firsts + seconds])
    loss = torch.nn.functional.mse_loss((all_texts[:3] * all_texts[3:]).sum(1), scores)
    loss.backward()
    tensors |= {f"{name}.embeddings": all_texts.detach().clone(), f"{name}.loss": loss.detach().double()}
    for key in ("embeddings.word_embeddings.weight", "encoder.layer.0.attention.self.query.weight"):
        tensors[f"{name}.{key}"] = dict(model.named_parameters())[key].grad.clone()
save_file(tensors | {"scores": scores}, "pooling.expected.safetensors")
