"""A tiny seeded RETSim in torch, written from the formulas of its papers, with a head: what it gives two texts.

Run in this folder, with requirements.txt installed:  python make_retsim.py
`retsim-tiny` is a model folder; `retsim-tiny.expected.safetensors` holds code points [2, 16], the embeddings and the
logits of a head on features of unit root mean square. The same code gives the cosines of the real weights that
Google's own model gives (README of the checkpoint).
"""

import json
import math
import pathlib

import torch
from safetensors.torch import save_file

folder = pathlib.Path(__file__).parent / "retsim-tiny"
BITS, HIDDEN, SHARED, LAYERS, LENGTH, LABELS = 24, 8, 4, 2, 16, 3


def seeded():
    torch.manual_seed(9)
    weights = {"positional_embedding.scale": torch.tensor(0.3)}
    def linear(name, out, into):
        weights[f"{name}.weight"] = torch.randn(out, into) * into**-0.5
        weights[f"{name}.bias"] = 0.1 * torch.randn(out)
    linear("encoder_start", HIDDEN, BITS)
    for i in range(LAYERS):
        unit = f"gau_layers.{i}"
        weights[f"{unit}.norm.scale"] = torch.tensor(1.1)
        linear(f"{unit}.proj1", 2 * HIDDEN + SHARED, HIDDEN)
        linear(f"{unit}.proj2", HIDDEN, HIDDEN)
        for name, shape in (("gamma", (2, SHARED)), ("beta", (2, SHARED)), ("positional_encoding.a", (LENGTH,)),
                            ("positional_encoding.b", (LENGTH,))):
            weights[f"{unit}.{name}"] = 0.3 * torch.randn(shape)
    linear("metric_embedding.linear", HIDDEN, HIDDEN)
    linear("classifier", LABELS, HIDDEN)
    return weights


def forward(weights, points, length, hidden, shared, layers):
    shifts = torch.arange(BITS - 1, -1, -1)
    x = ((points[:, :, None] >> shifts) & 1).float()
    half = BITS // 2
    rates = torch.exp(-torch.arange(half).float() * math.log(1e4) / (half - 1))
    angles = torch.arange(length).float()[:, None] * rates
    x = x + torch.cat([angles.sin(), angles.cos()], 1) * weights["positional_embedding.scale"]
    linear = lambda name, value: value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    silu, unit_squares = torch.nn.functional.silu, lambda v: v * torch.rsqrt((v**2).mean(-1, keepdim=True) + 1e-6)
    x = silu(linear("encoder_start", x))
    turns = torch.arange(length).float()[:, None] * 10000 ** (-torch.arange(length // 2).float() / (length // 2))
    for i in range(layers):
        unit = f"gau_layers.{i}"
        gate, value, base = silu(linear(f"{unit}.proj1", unit_squares(x) * weights[f"{unit}.norm.scale"])).split(
            [hidden, hidden, shared], -1)
        query, key = (base * weights[f"{unit}.gamma"][j] + weights[f"{unit}.beta"][j] for j in (0, 1))
        rotated = []
        for name in "ab":
            first, second = weights[f"{unit}.positional_encoding.{name}"].chunk(2)
            rotated.append(torch.cat([first * turns.cos() - second * turns.sin(), second * turns.cos() + first * turns.sin()], 1))
        scores = torch.relu(query @ key.transpose(1, 2) / length + rotated[0] @ rotated[1].T) ** 2
        x = x + linear(f"{unit}.proj2", gate * (scores @ value))
    least = x.amin(1, keepdim=True)
    pooled = ((((x - least + 1) ** 3).mean(1, keepdim=True)) ** (1 / 3) + least - 1)[:, 0]
    embeddings = torch.nn.functional.normalize(linear("metric_embedding.linear", pooled))
    return embeddings, linear("classifier", unit_squares(pooled)) if "classifier.weight" in weights else None


def main():
    folder.mkdir(exist_ok=True)
    weights = seeded()
    save_file(weights, folder / "model.safetensors")
    config = dict(model_type="retsim", hidden_size=HIDDEN, shared_dim=SHARED, num_hidden_layers=LAYERS,
                  max_position_embeddings=LENGTH, id2label={"0": "a", "1": "b", "2": "c"})
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    points = torch.zeros(2, LENGTH, dtype=torch.long)
    for row, text in enumerate(["héllo", "a longer text 🙂"]):
        points[row, : len(text)] = torch.tensor([ord(c) for c in text])
    embeddings, logits = forward(weights, points, LENGTH, HIDDEN, SHARED, LAYERS)
    save_file({"input_ids": points, "embeddings": embeddings, "logits": logits}, f"{folder}.expected.safetensors")


if __name__ == "__main__":
    main()
