"""The layers beside `torch.nn`'s own: the same numbers, state, arguments and refusals."""

import copy
import pickle
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm.torch as ours
from tolerances import assert_close

pytestmark = pytest.mark.needs("torch")

PAIRS = {
    "1d": (nn.BatchNorm1d, ours.BatchNorm1d, [(7, 5), (4, 5, 3), (6, 5, 1)]),
    "2d": (nn.BatchNorm2d, ours.BatchNorm2d, [(3, 5, 4, 2), (1, 5, 3, 3), (6, 5, 1, 1)]),
    "3d": (nn.BatchNorm3d, ours.BatchNorm3d, [(2, 5, 3, 2, 2), (1, 5, 2, 1, 4)]),
}
ARGUMENTS = {
    "defaults": {},
    "momentum": {"momentum": 0.3, "eps": 1e-2},
    "plain average": {"momentum": None},
    "not affine": {"affine": False},
    "no bias": {"bias": False},
    "untracked": {"track_running_stats": False},
}


def pair(kind: str, arguments: dict[str, Any], **more: Any) -> tuple[Any, Any]:
    """torch.nn's layer and ours with the same parameters."""
    theirs_class, ours_class, _ = PAIRS[kind]
    dtype = more.pop("dtype", torch.float32)
    theirs = theirs_class(5, dtype=dtype, **arguments)
    layer = ours_class(5, dtype=dtype, **arguments, **more)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter)
    layer.load_state_dict(theirs.state_dict())
    return theirs, layer


def run(layer: Any, shapes: list[tuple[int, ...]], dtype: Any) -> list[Any]:
    """Training steps with gradients, then evaluation with gradients: all that can be compared."""
    random = torch.Generator().manual_seed(3)
    found: list[Any] = []
    for training in (True, True, True, False):
        layer.train(training)
        for shape in shapes:
            x = torch.randn(shape, generator=random, dtype=dtype).requires_grad_()
            dy = torch.randn(shape, generator=random, dtype=dtype)
            y = layer(x)
            found += [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], dy)]
    return found + list(layer.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("kind", PAIRS)
def test_the_numbers_are_those_of_torch_nn(kind: str, arguments: dict[str, Any], dtype: Any) -> None:
    theirs, layer = pair(kind, arguments, dtype=dtype)
    assert list(layer.state_dict()) == list(theirs.state_dict())
    for one, other in zip(run(theirs, PAIRS[kind][2], dtype), run(layer, PAIRS[kind][2], dtype), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
@pytest.mark.parametrize("kind", PAIRS)
def test_the_core_gives_the_same(kind: str, arguments: dict[str, Any], dtype: Any) -> None:
    """With `fused=False` no kernel of PyTorch's has a part in it."""
    theirs, layer = pair(kind, arguments, dtype=dtype, fused=False)
    for one, other in zip(run(theirs, PAIRS[kind][2], dtype), run(layer, PAIRS[kind][2], dtype), strict=True):
        assert one.dtype == other.dtype
        # Where two numbers nearly agree, their gradients are large.
        scale = max(1.0, float(one.abs().max()))
        assert_close(other, one, dtype, kind, scale=scale, within=1e-5 if dtype == torch.float32 else 1e-12)


def test_random_shapes_and_options_agree_with_torch_nn() -> None:
    random = np.random.RandomState(0)
    for _ in range(40):
        kind = random.choice(list(PAIRS))
        rank = {"1d": random.choice([2, 3]), "2d": 4, "3d": 5}[kind]
        shape = (int(random.randint(3, 9)), 5, *(int(size) for size in random.randint(1, 6, rank - 2)))
        arguments = {
            "eps": float(random.choice([1e-5, 1e-3, 0.1])),
            "momentum": random.choice([None, 0.1, 0.5, 1.0]),
            "affine": bool(random.rand() < 0.7),
        }
        for dtype in (torch.float32, torch.float64):
            theirs, layer = pair(kind, arguments, dtype=dtype, fused=None if random.rand() < 0.5 else False)
            for one, other in zip(run(theirs, [shape], dtype), run(layer, [shape], dtype), strict=True):
                scale = max(1.0, float(one.abs().max()))
                within = 1e-5 if dtype == torch.float32 else 1e-12
                assert_close(other, one, dtype, f"{shape} {arguments}", scale=scale, within=within)


REFUSED = [
    ("1d", (1, 5), {}),
    ("1d", (1, 5, 1), {}),
    ("2d", (1, 5, 1, 1), {}),
    ("3d", (1, 5, 1, 1, 1), {}),
    ("1d", (2, 5, 1, 1), {}),
    ("2d", (2, 5), {}),
    ("3d", (2, 5, 1, 1), {}),
    ("1d", (4, 5), {"eps": 0.0}),
]


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "core"])
@pytest.mark.parametrize(("kind", "shape", "arguments"), REFUSED, ids=str)
def test_what_torch_nn_refuses_is_refused(kind: str, shape, arguments, fused: bool | None) -> None:
    theirs, layer = pair(kind, arguments, fused=fused)
    with pytest.raises(ValueError) as original:
        theirs(torch.zeros(shape))
    with pytest.raises(ValueError, match="^" + re.escape(str(original.value))):
        layer(torch.zeros(shape))
    if "eps" not in arguments and len(shape) == {"1d": 2, "2d": 4, "3d": 5}[kind]:
        layer.eval()(torch.zeros(shape))
    # Nothing was counted on the way to the refusal.
    assert layer.running_mean.eq(0).all()


def test_evaluation_without_running_statistics_refuses_a_batch_of_one_too() -> None:
    _, layer = pair("1d", {"track_running_stats": False})
    with pytest.raises(ValueError, match=r"^Expected more than 1 value per channel"):
        layer.eval()(torch.zeros(1, 5))


@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 2}], ids=str)
def test_an_empty_batch_changes_nothing(options: dict[str, Any]) -> None:
    layer = ours.BatchNorm2d(5, **options)
    layer(torch.randn(4, 5, 2, 2))
    before = copy.deepcopy(layer.state_dict())
    y = layer(torch.zeros(0, 5, 2, 2))
    assert y.shape == (0, 5, 2, 2)
    for name, value in layer.state_dict().items():
        if name != "num_batches_tracked":
            assert torch.equal(value, before[name]), name


def test_the_layers_are_torch_nns() -> None:
    for theirs, layer, _ in PAIRS.values():
        assert issubclass(layer, theirs)
    assert repr(ours.BatchNorm2d(5)) == repr(nn.BatchNorm2d(5))
    shown = repr(ours.BatchNorm2d(5, renorm=True, virtual_batch_size=4))
    assert shown.endswith("track_running_stats=True, renorm=True, virtual_batch_size=4)")


def test_momentum_may_be_assigned() -> None:
    theirs, layer = pair("1d", {}, fused=False)
    x = torch.randn(6, 5)
    for momentum in (0.5, None, 0.2):
        theirs.momentum = layer.momentum = momentum
        theirs(x), layer(x)
        assert_close(layer.running_var, theirs.running_var, "float32", str(momentum))


@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"zero_debias": True}], ids=str)
def test_state_dicts_of_torch_nn_load(options: dict[str, Any]) -> None:
    theirs, _ = pair("2d", {})
    for _ in range(3):
        theirs(torch.randn(8, 5, 2, 2) * 3 + 1)
    layer = ours.BatchNorm2d(5, **options)
    layer.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5, 2, 2)
    assert torch.equal(layer.eval()(x), theirs.eval()(x))
    if "renorm" in options:
        assert torch.equal(layer.renorm_mean, theirs.running_mean)
        assert torch.equal(layer.renorm_stddev, theirs.running_var.sqrt())
    # One of version 1, before there was a count.
    old = theirs.state_dict()
    del old["num_batches_tracked"]
    old._metadata[""]["version"] = 1
    layer.load_state_dict(old)
    # Ours alone is not filled up.
    broken = layer.state_dict()
    broken.pop("running_mean")
    with pytest.raises(RuntimeError, match="Missing key"):
        layer.load_state_dict(broken)


@pytest.mark.parametrize(
    "options",
    [{}, {"renorm": True, "renorm_clipping": ours.clipping_schedule(2)}, {"zero_debias": True}],
    ids=str,
)
def test_copies_and_pickles_go_on_alike(options: dict[str, Any]) -> None:
    layer = ours.BatchNorm1d(5, **options)
    layer(torch.randn(8, 5) + 1)
    again = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), ours.BatchNorm1d(5, **options)
    again[2].load_state_dict(layer.state_dict())
    x = torch.randn(8, 5)
    expected = layer(x)
    for other in again:
        assert torch.equal(other(x), expected)
        for name, value in layer.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name


def test_reset_brings_the_start_back() -> None:
    layer = ours.BatchNorm1d(5, renorm=True)
    start = copy.deepcopy(layer.state_dict())
    layer(torch.randn(8, 5) * 2 + 1)
    assert not torch.equal(layer.renorm_mean, start["renorm_mean"])
    layer.reset_running_stats()
    for name, value in layer.state_dict().items():
        assert torch.equal(value, start[name]), name


def test_a_layer_may_begin_on_the_meta_device() -> None:
    layer = ours.BatchNorm1d(5, renorm=True, device="meta").to_empty(device="cpu")
    layer.reset_parameters()
    fresh = ours.BatchNorm1d(5, renorm=True)
    for name, value in fresh.state_dict().items():
        assert torch.equal(layer.state_dict()[name], value), name
