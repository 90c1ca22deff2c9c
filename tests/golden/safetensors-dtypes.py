"""Writes safetensors-dtypes.safetensors: one tensor of every dtype, by the official writer (safetensors 0.8, torch 2.13).

Run in this folder: python safetensors-dtypes.py
"""

import torch
from safetensors.torch import save_file

integers = [torch.uint64, torch.int64, torch.uint32, torch.int32, torch.uint16, torch.int16, torch.int8, torch.uint8]
floats = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


tensors = {}
for dtype in integers:
    limits = torch.iinfo(dtype)
    tensors[name(dtype)] = torch.tensor([[limits.min, 0, 1], [2, 3, limits.max]], dtype=dtype)
for dtype in floats:
    limits = torch.finfo(dtype)
    values = [0.1, -0.0, -2.5, limits.max, limits.tiny, float("inf")]
    tensors[name(dtype)] = torch.tensor(values, dtype=torch.float64).to(dtype)
tensors["bool"] = torch.tensor([True, False, True])
tensors["scalar"] = torch.tensor(3.5)
tensors["empty"] = torch.zeros(0, 4)
# Names in an order that UTF-16 units, JavaScript's objects and UTF-8 bytes disagree on.
for i, odd in enumerate(["10", "2", "\ufb01", "\U0001f331", 'quote"\\\n']):
    tensors[odd] = torch.tensor([i], dtype=torch.int8)

save_file(tensors, "safetensors-dtypes.safetensors", {"format": "pt"})
