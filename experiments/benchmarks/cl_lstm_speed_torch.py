"""The PyTorch line of `cl_lstm_speed`: one training step of CL+LSTM for every line read.

Run by `cl_lstm_speed --torch_python=...` with an interpreter that has PyTorch, which jmeta does not need.
"""

import json
import sys

import torch
from torch import nn
from torch.nn import functional
from torch_steps import serve


class Layer(nn.Module):
    """A ConvLSTM layer: its four gates in one convolution of input and hidden state."""

    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.filters = filters
        self.conv = nn.Conv2d(inputs + filters, 4 * filters, 3, padding=1)

    def forward(
        self, x: torch.Tensor, carry: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(output, state) [task, filter, height, width] of one step."""
        output, state = carry
        i, f, g, o = self.conv(torch.cat([x, output], 1)).chunk(4, 1)
        state = torch.sigmoid(f) * state + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(state), state


class Network(nn.Module):
    """Four ConvLSTM layers with the skip from the second to the fourth, an LSTM, a classifier."""

    def __init__(self, channels: int, way: int, filters: int, hidden: int, size: int):
        super().__init__()
        self.filters, self.size, self.hidden = filters, size, hidden
        widths = [channels + way, filters, filters, filters]
        self.layers = nn.ModuleList([Layer(width, filters) for width in widths])
        side = size // 8
        self.lstm = nn.LSTMCell(side * side * filters + way, hidden)
        self.head = nn.Linear(hidden, way)

    def forward(self, x: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Logits [time, task, way] of images [time, task, channel, height, width] and labels."""
        tasks = x.shape[1]
        carries = []
        for level in range(4):
            zero = x.new_zeros(tasks, self.filters, self.size >> level, self.size >> level)
            carries.append((zero, zero))
        last = (x.new_zeros(tasks, self.hidden), x.new_zeros(tasks, self.hidden))
        logits = []
        for image, fed in zip(x, label):
            planes = fed[:, :, None, None].expand(-1, -1, self.size, self.size)
            seen, pooled = torch.cat([image, planes], 1), []
            for level, layer in enumerate(self.layers):
                if level:
                    seen = pooled[-1]
                if level == 3:
                    seen = seen + functional.max_pool2d(pooled[1], 2)
                carries[level] = layer(seen, carries[level])
                if level < 3:
                    pooled.append(functional.max_pool2d(carries[level][0], 2))
            last = self.lstm(torch.cat([carries[3][0].flatten(1), fed], 1), last)
            logits.append(self.head(last[0]))
        return torch.stack(logits)


def main() -> None:
    """Read the setting, then take a training step for every line."""
    setting = json.loads(sys.stdin.readline())
    torch.manual_seed(0)
    way, tasks, size = setting["way"], setting["meta_batch"], setting["image_size"]
    net = Network(setting["channels"], way, setting["filters"], setting["hidden"], size)
    outer = torch.optim.Adam(net.parameters(), 1e-3)
    steps = way * setting["presentations"]
    x = torch.rand(steps, tasks, setting["channels"], size, size)
    y = (torch.arange(steps) % way)[:, None].expand(-1, tasks)
    label = torch.zeros(steps, tasks, way)
    label[1:] = functional.one_hot(y[:-1], way).float()

    parts = torch.arange(tasks).split(setting["chunk"] or tasks)

    def step() -> None:
        outer.zero_grad()
        for part in parts:  # whose gradients add up, as in jmeta's chunks
            logits, target = net(x[:, part], label[:, part]), y[:, part]
            loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="sum")
            (loss / tasks).backward()
        outer.step()

    serve(step)


if __name__ == "__main__":
    main()
