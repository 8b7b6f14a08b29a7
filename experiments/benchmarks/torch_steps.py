"""The protocol of the scripts that `beside_torch.torch_line` runs, whose interpreter needs no jmeta."""

import sys
import time
from collections.abc import Callable

import torch


def serve(step: Callable[[], None]) -> None:
    """Print the version; then, for every line read, take a step and print its seconds."""
    print(torch.__version__, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, flush=True)
