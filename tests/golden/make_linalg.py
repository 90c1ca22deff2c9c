"""Decompositions by numpy (LAPACK) of square, tall, wide, rank-deficient and clustered matrices, in float64.

    python make_linalg.py        writes linalg.safetensors
"""

import numpy as np
from safetensors.numpy import save_file

rng = np.random.default_rng(8)


def orthonormal(rows, cols):
    return np.linalg.qr(rng.standard_normal((rows, cols)))[0]


def with_values(rows, cols, values):
    q = len(values)
    return orthonormal(rows, q) @ np.diag(values) @ orthonormal(cols, q).T


cases = {
    "square": rng.standard_normal((24, 24)),
    "tall": rng.standard_normal((40, 12)),
    "slightly-tall": rng.standard_normal((18, 14)),
    "wide": rng.standard_normal((12, 40)),
    "deficient": with_values(20, 16, [5, 4, 3, 2, 1]),
    "clustered": with_values(16, 16, [9, 9, 9, 9, 4, 4 + 1e-9, 4 - 1e-9, 1, 1, 1, 1, 1, 1e-6, 1e-6, 1e-12, 0]),
    "graded": with_values(16, 16, 10.0 ** -np.arange(16)),
}
tensors = {}
for name, a in cases.items():
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    q, r = np.linalg.qr(a)
    symmetric = a @ a.T / a.shape[1]
    values, vectors = np.linalg.eigh(symmetric)
    parts = {"A": a, "U": u, "S": s, "Vt": vt, "Q": q, "R": r, "symmetric": symmetric, "values": values, "vectors": vectors}
    tensors.update({f"{name}.{part}": np.ascontiguousarray(value) for part, value in parts.items()})
save_file(tensors, "linalg.safetensors")
