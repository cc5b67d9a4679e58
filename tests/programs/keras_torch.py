"""What `test_keras_torch` runs in a process of its own, where Keras' backend is PyTorch.

Does every check, and prints a JSON object that has for each its traceback, or nothing.
"""

import itertools
import json
import traceback
import warnings
from unittest import mock

import keras
import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from batchnorm.keras import _torch
from batchnorm.keras.layers import BatchNormalization
from batchnorm.torch import checkpoint_contexts, frozen_statistics

SHORT_WAYS = {"train_plainly": lambda *_: None, "infer_plainly": lambda *_: None, "advance": lambda *_: False}
LAYOUTS = (
    ((8, 5), -1),
    ((8, 3, 2, 5), -1),
    ((8, 5, 3, 2), 1),
    ((8, 3, 2, 5), [1, 3]),
    ((8, 3, 2, 5), [0, 3]),
)
PLAIN = (
    {},
    {"scale": False, "variance": "sample"},
    {"center": False, "epsilon": 0.0},
    {"virtual_batch_size": 4},
    {"virtual_batch_size": 4, "ghost_order": "contiguous", "variance": "sample"},
)
OTHER = ({"renorm": True, "renorm_momentum": 0.6}, {"zero_debias_moving_mean": True}, {"fused": False})
DTYPES = {
    "float32": (torch.float32, 2e-5),
    "float64": (torch.float64, 1e-12),
    "mixed_bfloat16": (torch.bfloat16, 2e-2),
    "mixed_float16": (torch.float16, 3e-3),
    # Its variables are rounded at every step.
    "bfloat16": (torch.bfloat16, 3e-2),
}


def layer_for(shape, dtype="float32", seed=0, **options):
    layer = BatchNormalization(momentum=0.7, dtype=dtype, **options)
    layer.build(shape)
    random = np.random.default_rng(seed)
    for variable in layer.weights:
        variable.assign(random.uniform(0.5, 1.5, variable.shape))
    return layer


def outcome(shape, dtype, mask, **options):
    """Outputs and gradients of two steps, an inference, and the variables after it, in float64."""
    layer = layer_for(shape, dtype, **options)
    generator = torch.Generator().manual_seed(1)
    x, dy = (torch.randn(shape, generator=generator).to(DTYPES[dtype][0]) for _ in range(2))
    x.requires_grad_()
    found = []
    for _ in range(2):
        y = layer(x, training=True, mask=mask)
        found += [y, *torch.autograd.grad(y, [x, *(v.value for v in layer.trainable_variables)], dy)]
    found += [layer(x, training=False), *(v.value for v in layer.weights)]
    return [value.detach().double() for value in found]


def the_short_ways(dtype):
    """They give what the core gives, and are those that were taken."""
    masks = (None, lambda shape: torch.arange(np.prod(shape[:-1])).reshape(shape[:-1]) % 5 > 0)
    for (shape, axis), options, make in itertools.product(LAYOUTS, PLAIN + OTHER, masks):
        if axis == [0, 3] and "virtual_batch_size" in options:
            continue
        mask = None if make is None else make(shape)
        asked = shape, dtype, mask
        taken = {name: mock.Mock(wraps=getattr(_torch.backend, name)) for name in SHORT_WAYS}
        steps = []
        taken["train_plainly"].side_effect = lambda *a: steps.append(own(*a)) or steps[-1]  # noqa: B023
        own = _torch.backend.train_plainly
        with mock.patch.multiple(type(_torch.backend), **taken):
            ours = outcome(*asked, axis=axis, **options)
        # The kernels take no groups of neighbors beside two channel axes, which would have to be moved.
        apart = axis == [1, 3] and "ghost_order" in options
        plain = mask is None and options in PLAIN and not apart
        assert [y is not None for y in steps] == [plain] * len(steps), (asked, options)
        assert len(steps) == (0 if mask is not None else 2), (asked, options)
        assert taken["advance"].call_count == (0 if plain else 2), (asked, options)
        with mock.patch.multiple(type(_torch.backend), **SHORT_WAYS):
            core = outcome(*asked, axis=axis, **options)
        within = DTYPES[dtype][1]
        for one, other in zip(ours, core, strict=True):
            torch.testing.assert_close(one, other, rtol=within, atol=within, msg=lambda m: f"{asked}{m}")  # noqa: B023


def third_derivatives():
    x = torch.randn((6, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def levels(**options):
        point, found = x.clone().requires_grad_(), []
        level = layer_for(x.shape, "float64", **options)(point, training=True).pow(3).sum()
        for _ in range(3):
            (slope,) = torch.autograd.grad(level, point, create_graph=True)
            found.append(slope.detach())
            level = slope.pow(3).sum()
        return found

    for one, other in zip(levels(), levels(fused=False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def inputs_that_are_not_contiguous():
    wide = torch.randn((8, 5, 3, 2), generator=torch.Generator().manual_seed(3))
    results = []
    for x in (wide.permute(0, 2, 3, 1), wide.permute(0, 2, 3, 1).contiguous()):
        layer = layer_for(x.shape)
        y = layer(x, training=True)
        results.append([y, layer(x, training=False), *(v.value for v in layer.weights)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def a_stateless_call():
    """State in, state out; the layer keeps what it had, and so does the caller."""
    for options in ({}, {"renorm": True}):
        x = torch.randn((8, 5), generator=torch.Generator().manual_seed(4))
        layer, same = layer_for(x.shape, **options), layer_for(x.shape, **options)
        before = [v.value.clone() for v in layer.weights]
        trainable = [v.value for v in layer.trainable_variables]
        state = [v.value + 1.0 for v in layer.non_trainable_variables]
        given = [value.clone() for value in state]
        y, after = layer.stateless_call(trainable, state, x, training=True)
        for old, value in zip(given, state, strict=True):
            assert torch.equal(old, value)
        for old, variable in zip(before, layer.weights, strict=True):
            assert torch.equal(old, variable.value)
        for variable in same.non_trainable_variables:
            variable.assign(variable.value + 1.0)
        torch.testing.assert_close(y, same(x, training=True))
        for new, variable in zip(after, same.non_trainable_variables, strict=True):
            torch.testing.assert_close(new, variable.value, check_dtype=False)


def gradients_after_a_step():
    """An inference before a step has the gradient by the statistics that it read."""
    for options in ({}, {"renorm": True}):
        layer = layer_for((8, 5), **options)
        x = torch.ones((8, 5), requires_grad=True)
        y = layer(x, training=False)
        slope = layer.gamma.value * torch.rsqrt(layer.moving_variance.value + layer.epsilon)
        layer(torch.randn(8, 5), training=True)
        y.sum().backward()
        torch.testing.assert_close(x.grad, slope.detach().expand(8, 5))


def a_compiled_step():
    for options in ({}, {"virtual_batch_size": 4}, {"renorm": True}):
        x = torch.randn((8, 5), generator=torch.Generator().manual_seed(5))
        layer, same = layer_for(x.shape, **options), layer_for(x.shape, **options)
        torch._dynamo.reset()
        compiled = torch.compile(lambda x, training: layer(x, training=training), backend="eager")  # noqa: B023
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for training in (True, False):
                within = {"rtol": 2e-5, "atol": 2e-5}
                torch.testing.assert_close(compiled(x, training), same(x, training=training), **within)
        assert not [each for each in told if "lru_cache" in str(each.message)], told
        for one, other in zip(layer.weights, same.weights, strict=True):
            torch.testing.assert_close(one.value, other.value, rtol=2e-5, atol=2e-5)


def symbols():
    """Building a model computes no numbers."""
    layer = layer_for((8, 5))
    before = [v.value.clone() for v in layer.weights]
    assert layer(keras.Input((5,)), training=True).shape == (None, 5)
    assert layer.compute_output_spec(keras.KerasTensor((None, 5)), training=True).shape == (None, 5)
    for old, variable in zip(before, layer.weights, strict=True):
        assert torch.equal(old, variable.value)


def a_frozen_layer():
    layer = layer_for((8, 5))
    layer.trainable = False
    before, x = [v.value.clone() for v in layer.weights], torch.randn(8, 5)
    torch.testing.assert_close(layer(x, training=True), layer(x, training=False))
    for old, variable in zip(before, layer.weights, strict=True):
        assert torch.equal(old, variable.value)


def batches_of_one_and_none():
    layer = layer_for((8, 5))
    for size in (0, 1):
        for training in (True, False):
            assert torch.isfinite(layer(torch.ones((size, 5)), training=training)).all()
    assert all(torch.isfinite(v.value).all() for v in layer.weights)


def a_checkpoint():
    """The recomputation reads what the first run read, and counts nothing twice."""
    for options in ({}, {"renorm": True}, {"zero_debias_moving_mean": True}):
        layers = [layer_for((8, 5), **options) for _ in range(2)]
        for _ in range(2):
            x = torch.randn(8, 5) * 3 + 1
            given = [x.clone().requires_grad_() for _ in range(2)]
            torch.sin(layers[0](given[0], training=True)).sum().backward()
            kept = checkpoint_contexts
            y = checkpoint(layers[1], given[1], training=True, use_reentrant=False, context_fn=kept)
            torch.sin(y).sum().backward()
            torch.testing.assert_close(given[1].grad, given[0].grad)
        for one, other in zip(*(layer.weights for layer in layers), strict=True):
            torch.testing.assert_close(one.value, other.value)
        before = [v.value.clone() for v in layers[0].weights]
        with frozen_statistics():
            layers[0](x, training=True)
        for old, variable in zip(before, layers[0].weights, strict=True):
            assert torch.equal(old, variable.value)


CHECKS = {
    **{f"the short ways in {dtype}": lambda dtype=dtype: the_short_ways(dtype) for dtype in DTYPES},
    "third derivatives": third_derivatives,
    "inputs that are not contiguous": inputs_that_are_not_contiguous,
    "a stateless call": a_stateless_call,
    "gradients after a step": gradients_after_a_step,
    "a compiled step": a_compiled_step,
    "symbols": symbols,
    "a frozen layer": a_frozen_layer,
    "batches of one and none": batches_of_one_and_none,
    "a checkpoint": a_checkpoint,
}


def failure(check):
    try:
        check()
    except (Exception, pytest.fail.Exception):
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    print(json.dumps({name: failure(check) for name, check in CHECKS.items()}))
