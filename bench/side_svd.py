"""Two whole decompositions by numpy in float32, timed, and the intruders they show: what diagnosis does without us.

    python side_svd.py <base.f32> <tuned.f32> <size> <k> <eps>
"""

import json
import sys
import time

import numpy as np

base, tuned, size, k, eps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])
before = np.fromfile(base, dtype=np.float32).reshape(size, size)
after = np.fromfile(tuned, dtype=np.float32).reshape(size, size)
start = time.perf_counter()
u0, _, _ = np.linalg.svd(before, full_matrices=False)
u, _, _ = np.linalg.svd(after, full_matrices=False)
cosines = np.abs(u0.T @ u[:, :k]).max(axis=0)
seconds = time.perf_counter() - start
intruders = [int(j) for j in np.flatnonzero(cosines < eps)]
print(json.dumps({"seconds": seconds, "cosines": cosines.tolist(), "intruders": intruders}))
