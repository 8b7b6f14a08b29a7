"""CL-ResNet-20, of ConvLSTM cells without ReLUs, written out block by block."""

import jax
import numpy as np
from layers_in_numpy import convolve_from_rest, normalize, random_variables

from jmeta.models.resnet20 import resnet20


def test_cells_have_no_relu():
    x, widths = np.random.default_rng(1).normal(size=(3, 8, 8, 1)), (2, 2, 3)
    model = resnet20(widths=widths, recurrent=True, head=4)
    params, state = random_variables(model, x)
    ours = jax.jit(lambda params, x: model.apply(params, state, x, train=True)[0])(params, x)

    def layer(x, name, stride=1):
        cell = convolve_from_rest(x, params[f"cell_{name}"]["cell"])[:, ::stride, ::stride]
        return normalize(cell, params[f"norm_{name}"])

    x = layer(x, "first")
    for stage, width in enumerate(widths):
        for block in range(3):
            stride = 2 if stage and not block else 1
            y = layer(layer(x, f"{stage}_{block}_0", stride), f"{stage}_{block}_1")
            x = np.pad(x[:, ::stride, ::stride], [(0, 0)] * 3 + [(0, width - x.shape[-1])]) + y
    logits = x.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(ours, logits, rtol=1e-7, atol=1e-9)
