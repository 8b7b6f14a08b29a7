"""Networks say which inputs they take, by shapes alone."""

import jax
import jax.numpy as jnp
import pytest

from jmeta.models.heads import cosine_head
from jmeta.models.inputs import InputError
from jmeta.registry import MODELS, build

IMAGES = [
    ({"name": "conv4"}, 16),
    ({"name": "conv4", "padded": False}, 46),
    ({"name": "conv4", "pool": False}, 1),
    ({"name": "conv4", "pool": False, "padded": False}, 31),
    ({"name": "conv_encoder"}, 8),
    ({"name": "conv_encoder", "padded": False}, 38),
    ({"name": "conv_encoder", "groups": 64}, 16),  # one pixel is nothing after instance normalization
    ({"name": "conv_encoder", "groups": None, "pooled": [False] * 3, "strides": [2, 1, 2]}, 1),
    ({"name": "residual_encoder"}, 1),
    ({"name": "resnet12"}, 16),
    ({"name": "resnet12", "widths": [4, 4]}, 4),
    ({"name": "resnet12_boil"}, 4),
    ({"name": "resnet20"}, 1),
    ({"name": "cl_resnet20"}, 1),
    ({"name": "vgg11"}, 32),
    ({"name": "cl_vgg11"}, 32),
]


def shape_of(model, *shape):
    """The shape of a network's outputs for inputs of a shape, without computing."""

    def run(x):
        params, state = model.init(jax.random.key(0), x)
        return model.apply(params, state, x, train=True)[0]

    return jax.eval_shape(run, jax.ShapeDtypeStruct(shape, jnp.float32)).shape


@pytest.mark.parametrize(("spec", "least"), IMAGES, ids=str)
def test_networks_of_images_refuse_everything_else(spec, least):
    model, name = build(spec, "model"), spec["name"].removeprefix("cl_")
    assert 0 not in shape_of(model, 2, least, least, 1)
    with pytest.raises(InputError, match=rf"{name} takes images .* \[example, 7\]; mlp and identity take v"):
        shape_of(model, 2, 7)
    with pytest.raises(
        InputError, match=rf"{name} takes images .* \[example, 28, 28\]; gray .* x\[\.\.\., None"
    ):
        shape_of(model, 2, 28, 28)
    with pytest.raises(InputError, match="without a value"):
        shape_of(model, 2, 64, 64, 0)
    with pytest.raises(InputError, match="takes an array and these inputs are a tuple"):
        model.init(jax.random.key(0), (jnp.ones((2, 64, 64, 1)),))
    if least > 1:
        with pytest.raises(
            InputError, match=f"{least - 1}x99 leave no feature; .* {least}x{least}"
        ) as caught:
            shape_of(model, 2, least - 1, 99, 1)
        assert caught.value.option == "image_size"
        shape_of(model, 2, least, 99, 1)


def test_every_registered_network_is_of_a_kind():
    assert {spec["name"] for spec, _ in IMAGES} | {"mlp", "identity"} == set(MODELS)


def test_inputs_are_checked_when_a_network_is_applied():
    model = build({"name": "conv4", "filters": 4}, "model")
    params, state = jax.eval_shape(model.init, jax.random.key(0), jnp.ones((1, 16, 16, 1)))
    with pytest.raises(InputError, match="conv4: images of 8x8 leave no feature"):
        jax.eval_shape(
            lambda p, s, x: model.apply(p, s, x, train=False), params, state, jnp.ones((2, 8, 8, 1))
        )
    # A mapped axis is none of the network's.
    mapped = jax.vmap(lambda p, s, x: model.apply(p, s, x, train=False), (None, None, 0))
    assert jax.eval_shape(mapped, params, state, jnp.ones((3, 2, 16, 16, 1)))[0].shape == (3, 2, 4)


def test_networks_of_vectors():
    for name in ("mlp", "identity"):
        model = build({"name": name}, "model")
        assert shape_of(model, 2, 7)[0] == 2
        for shape in ((2, 0), ()):
            with pytest.raises(InputError):
                shape_of(model, *shape)
    assert shape_of(build({"name": "mlp", "outputs": 3}, "model"), 2, 4, 4, 1) == (2, 3)
    with pytest.raises(
        InputError, match=r"identity takes vectors .* \[example, 4, 4, 1\]; mlp flattens them"
    ):
        shape_of(build({"name": "identity"}, "model"), 2, 4, 4, 1)
    with pytest.raises(InputError, match="cosine_head takes vectors"):
        shape_of(cosine_head(5), 2, 4, 4, 1)


@pytest.mark.parametrize("name", ["oml", "anml"])
def test_encoders_of_adapters_say_which_images_they_take(name):
    adapter = build({"name": name, "outputs": 5, "rule": {"name": "sgd", "rate": 0.1}})
    with pytest.raises(InputError, match="conv_encoder takes images"):
        jax.eval_shape(adapter.init, jax.random.key(0), jnp.ones((1, 7)))
    with pytest.raises(InputError, match="conv_encoder: images of 6x6 leave no feature"):
        jax.eval_shape(adapter.init, jax.random.key(0), jnp.ones((1, 6, 6, 1)))


def test_memories_say_which_inputs_they_take():
    memory = build({"name": "cl_lstm", "way": 3}, "memory")
    with pytest.raises(InputError, match="cl_lstm takes images"):
        jax.eval_shape(memory.init, jax.random.key(0), jnp.ones((1, 7)))
    with pytest.raises(InputError, match="cl_lstm: images of 7x9 leave no feature; expected at least 8x8"):
        jax.eval_shape(memory.init, jax.random.key(0), jnp.ones((1, 7, 9, 1)))
    for spec in ({"name": "lstm"}, {"name": "ntm"}):
        for shape in ((1, 7), (1, 4, 4, 1)):
            jax.eval_shape(build({**spec, "way": 3}, "memory").init, jax.random.key(0), jnp.ones(shape))
    encoder = {"name": "residual_encoder"}
    for spec in (
        {"name": "apl"},
        {"name": "opn"},
        {"name": "cpm"},
        {"name": "cnn_lstm"},
        {"name": "cnn_f_lstm"},
    ):
        memory = build({**spec, "way": 3, "encoder": encoder}, "memory")
        with pytest.raises(InputError, match="residual_encoder takes images"):
            jax.eval_shape(memory.init, jax.random.key(0), jnp.ones((1, 7)))
