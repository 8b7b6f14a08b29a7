"""The PyTorch line of `maml_speed`: one second-order MAML meta-step for every line read.

Run by `maml_speed --torch_python=...` with an interpreter that has PyTorch, which jmeta does not need. Reads
the setting as one line of JSON; then for each further line takes a meta-step and prints its seconds.
"""

import json
import sys

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch_steps import serve


class Block(nn.Module):
    """Convolution, batch normalization with batch statistics, ReLU, 2x2 max pooling."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm = nn.BatchNorm2d(outputs, track_running_stats=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [image, channel, height, width] to half the height and width."""
        return functional.max_pool2d(functional.relu(self.norm(self.conv(x))), 2)


def main() -> None:
    """Read the setting, then take a meta-step for every line."""
    setting = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    tasks, way, steps = setting["meta_batch"], setting["way"], setting["inner_steps"]
    size, filters, channels = setting["image_size"], setting["filters"], setting["channels"]
    side = size // 16
    net = nn.Sequential(
        *[Block(channels if layer == 0 else filters, filters) for layer in range(4)],
        nn.Flatten(),
        nn.Linear(filters * side * side, way),
    )
    outer = torch.optim.Adam(net.parameters(), 1e-3)
    x_support = torch.rand(tasks, way * setting["shot"], channels, size, size)
    x_query = torch.rand(tasks, way * setting["query"], channels, size, size)
    y_support = torch.arange(way).repeat_interleave(setting["shot"])
    y_query = torch.arange(way).repeat_interleave(setting["query"])

    def meta_step() -> None:
        outer.zero_grad()
        start = dict(net.named_parameters())
        total = 0.0
        for task in range(tasks):
            fast = start
            for _ in range(steps):
                loss = functional.cross_entropy(functional_call(net, fast, x_support[task]), y_support)
                grads = torch.autograd.grad(loss, list(fast.values()), create_graph=True)
                fast = {name: p - setting["inner_lr"] * g for (name, p), g in zip(fast.items(), grads)}
            total = total + functional.cross_entropy(functional_call(net, fast, x_query[task]), y_query)
        (total / tasks).backward()
        outer.step()

    serve(meta_step)


if __name__ == "__main__":
    main()
