"""torch's scaled_dot_product_attention, forward and backward, on one case: the peer of bench:attention. One line of JSON."""

import json
import resource
import sys
import time

import torch

case = json.loads(sys.argv[1])
torch.set_num_threads(1)
heads, length, size = case["heads"], case["length"], case["headDim"]
torch.manual_seed(7)
q, k, v = (torch.randn(1, heads, length, size, requires_grad=True) for _ in range(3))
weights = torch.randn(1, heads, length, size)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
ms = []
for _ in range(case["runs"]):
    for x in (q, k, v):
        x.grad = None
    started = time.perf_counter()
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    (out * weights).sum().backward()
    ms.append(1000 * (time.perf_counter() - started))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"ms": ms, "peakBytes": max(0, peak - before)}))
