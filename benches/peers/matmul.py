"""GFLOP/s of PyTorch's product of two 2048 x 2048 matrices, best of five: matmul.py THREADS."""
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
n = 2048
a, b = torch.randn(n, n), torch.randn(n, n)
best = float("inf")
for _ in range(5):
    start = time.perf_counter()
    a @ b
    best = min(best, time.perf_counter() - start)
print(2 * n**3 / best / 1e9)
