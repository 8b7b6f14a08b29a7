"""VGG-11, plain and of ConvLSTM cells, written out layer by layer."""

import jax
import numpy as np
import pytest
from layers_in_numpy import convolve, convolve_from_rest, max_pool, normalize, random_variables, relu

from jmeta.models.vgg11 import vgg11

POOLED = {0, 1, 3, 5, 7}  # after layers 1, 2, 4, 6 and 8 (Simonyan & Zisserman, Table 1, A)


@pytest.mark.parametrize("recurrent", [False, True])
def test_where_it_pools_and_that_cells_have_no_relu(recurrent):
    x = np.random.default_rng(1).normal(size=(3, 32, 32, 1))
    model = vgg11(widths=(2,) * 8, recurrent=recurrent, head=4)
    params, state = random_variables(model, x)
    ours = jax.jit(lambda params, x: model.apply(params, state, x, train=True)[0])(params, x)

    for layer in range(8):
        norm = params[f"norm_{layer}"]
        if recurrent:
            x = normalize(convolve_from_rest(x, params[f"cell_{layer}"]["cell"]), norm)
        else:
            x = relu(normalize(convolve(x, params[f"conv_{layer}"]["kernel"]), norm))
        x = max_pool(x) if layer in POOLED else x
    logits = x.reshape(3, -1) @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(ours, logits, rtol=1e-7, atol=1e-9)
