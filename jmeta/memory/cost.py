"""The arithmetic of one adaptation step, counted analytically."""

from __future__ import annotations

from collections.abc import Sequence

from jmeta.memory.cl_lstm import LAYERS, Inject, Skip


def cl_lstm_flops(
    image: Sequence[int],
    way: int,
    *,
    filters: int = 64,
    hidden: int = 256,
    inject: Inject = "first",
    skip: Skip = "add",
) -> int:
    """Floating-point operations of one step of CL+LSTM on an image (height, width, channel): convolutions and
    products only, two for a multiply-add, padding included (Babu et al. 2021, section 4.3: 0.40 GFLOPs).

    As the paper counts, label planes are input channels, although `jmeta.cl_lstm` does not spend these.
    """
    height, width, channels = image
    total = 0
    for layer in range(LAYERS):
        inputs = channels if layer == 0 else filters
        if layer == LAYERS - 1 and skip == "concat":
            inputs += filters
        if inject == "all" or (inject == "first" and layer == 0):
            inputs += way
        places = (height >> layer) * (width >> layer)
        total += places * 9 * (inputs + filters) * 4 * filters
    features = (height >> (LAYERS - 1)) * (width >> (LAYERS - 1)) * filters
    total += (features + way + hidden) * 4 * hidden + hidden * way
    return 2 * total


def conv_encoder_flops(image: Sequence[int], *, filters: int, layers: int = 4, pooled: int = 3) -> int:
    """The same count of one image through a plain network of 3x3 convolutions with `filters` channels, 2x2
    pooling after the first `pooled` of its `layers`."""
    height, width, channels = image
    total = 0
    for layer in range(layers):
        shrunk = min(layer, pooled)
        total += (height >> shrunk) * (width >> shrunk) * 9 * (channels if layer == 0 else filters) * filters
    return 2 * total
