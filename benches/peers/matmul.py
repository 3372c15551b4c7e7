"""GFLOP/s of PyTorch's product of two 2048 x 2048 matrices, the median of five after one: matmul.py THREADS."""
import statistics
import sys
import time

import torch

torch.set_num_threads(int(sys.argv[1]))
n = 2048
a, b = torch.randn(n, n), torch.randn(n, n)


def seconds():
    start = time.perf_counter()
    a @ b
    return time.perf_counter() - start


seconds()
print(2 * n**3 / statistics.median(seconds() for _ in range(5)) / 1e9)
