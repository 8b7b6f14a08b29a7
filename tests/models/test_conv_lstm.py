"""VGG-11 and ResNet-20, plain and of ConvLSTM cells: Table 5's parameters, and the cell's closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.supervised import widths
from jmeta.models.cells import apply_gates
from jmeta.models.conv_lstm import ConvLSTM
from jmeta.models.resnet20 import resnet20
from jmeta.models.vgg11 import vgg11
from jmeta.registry import build


def weights(name, shrink=None):
    """Kernels of the convolutions and of the classifier, with its bias; and all parameters."""
    spec = {"name": f"cl_{name}", "widths": widths(name, shrink)} if shrink else {"name": name}
    model = build({**spec, "head": 10}, "model")
    x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    params, state = jax.eval_shape(lambda x: model.init(jax.random.key(0), x), x)
    outputs = jax.eval_shape(lambda p, s, x: model.apply(p, s, x, train=True)[0], params, state, x)
    assert outputs.shape == (2, 10)
    leaves = jax.tree.leaves(params)
    kernels = sum(leaf.size for leaf in leaves if leaf.ndim in (2, 4))
    return kernels + 10, sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize(
    ("name", "shrink", "millions", "paper"),
    [
        ("vgg11", None, 9.22, 9.2),
        ("vgg11", 0.5, 20.02, 20.0),
        ("vgg11", 0.35, 9.47, 9.5),
        ("resnet20", None, 0.27, 0.3),
        ("resnet20", 0.5, 0.56, 0.6),
        ("resnet20", 0.35, 0.26, 0.3),
    ],
)
def test_parameters_are_those_of_table_5(name, shrink, millions, paper):
    kernels, everything = weights(name, shrink)
    assert round(kernels / 1e6, 2) == millions
    assert round(everything / 1e6, 1) == paper


def test_a_cell_from_rest_is_the_whole_cell():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3), jnp.float64)
    module = ConvLSTM(4)
    params = module.init(jax.random.key(1), x)
    cell = params["params"]["cell"]
    strides, axes = (1, 1), ("NHWC", "HWIO", "NHWC")
    gates = jax.lax.conv_general_dilated(x, cell.inputs, strides, "SAME", dimension_numbers=axes)
    output, _ = apply_gates(gates + cell.bias[None, None, None], jnp.zeros((2, 5, 6, 4)))
    np.testing.assert_allclose(module.apply(params, x), output, rtol=1e-12)
    strided = ConvLSTM(4, stride=2).apply(params, x)
    np.testing.assert_allclose(strided, output[:, ::2, ::2], rtol=1e-12)
    gradient = jax.grad(lambda p: jnp.sin(module.apply(p, x)).sum())(params)["params"]["cell"]
    assert not gradient.recurrent.any()
    assert not gradient.inputs[..., 4:8].any()
    assert gradient.inputs[..., :4].any()


class PlainResNet20(nn.Module):
    """ResNet-20 of flax's own layers, under the same parameter names."""

    @nn.compact
    def __call__(self, x, *, train):
        def layer(x, width, stride, name):
            x = nn.Conv(width, (3, 3), strides=stride, padding=1, use_bias=False, name=f"conv_{name}")(x)
            return nn.BatchNorm(use_running_average=not train, momentum=0.9, name=f"norm_{name}")(x)

        x = nn.relu(layer(x, 2, 1, "first"))
        for stage, width in enumerate((2, 3, 4)):
            for block in range(3):
                stride = 2 if stage and not block else 1
                y = nn.relu(layer(x, width, stride, f"{stage}_{block}_0"))
                y = layer(y, width, 1, f"{stage}_{block}_1")
                shortcut = x[:, ::stride, ::stride]
                x = nn.relu(y + jnp.pad(shortcut, [(0, 0)] * 3 + [(0, width - x.shape[-1])]))
        return nn.Dense(5, name="head")(x.mean((1, 2)))


def test_resnet20_is_the_plain_network():
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 3), jnp.float64)
    model, plain = resnet20(widths=(2, 3, 4), head=5), PlainResNet20()
    params, state = model.init(jax.random.key(1), x)
    ours, averages = jax.jit(lambda p: model.apply(p, state, x, train=True))(params)
    theirs, updated = jax.jit(
        lambda p: plain.apply({"params": p, **state}, x, train=True, mutable=["batch_stats"])
    )(params)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9), averages, updated)


def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match="7 widths; expected 8"):
        vgg11(widths=[4] * 7)
    with pytest.raises(ValueError, match="three that do not shrink"):
        resnet20(widths=(4, 3, 2))
