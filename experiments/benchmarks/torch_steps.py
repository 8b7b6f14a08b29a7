"""The protocol of the scripts that `beside_torch.torch_line` runs, whose interpreter needs no jmeta."""

import sys
import time
from collections.abc import Callable

import torch


def serve(step: Callable[[], None]) -> None:
    """Print the version; then, for every line read, take a step and print its seconds, by the clock and of
    all processors."""
    print(torch.__version__, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter(), time.process_time()
        step()
        print(time.perf_counter() - start[0], time.process_time() - start[1], flush=True)
