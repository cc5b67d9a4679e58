"""PyTorch's layers with an activation and a residual: `torch.nn`'s layer, an addition and an activation in one."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.nn import functional

from batchnorm import Activation
from batchnorm.torch import BatchNorm1d, BatchNorm2d, convert
from tolerances import assert_close

pytestmark = pytest.mark.needs("torch")

FUNCTIONS = {
    "relu": functional.relu,
    "relu6": functional.relu6,
    "leaky_relu": lambda u: functional.leaky_relu(u, 0.2),
    "hard_tanh": functional.hardtanh,
    "hard_swish": functional.hardswish,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda u: functional.gelu(u, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "identity": lambda u: u,
}
# Below and above the sizes from which on our kernels take a plain step.
SMALL, LARGE = (8, 6, 5, 5), (16, 24, 24, 24)


def asked(name: str) -> Activation:
    return Activation(name, 0.2 if name == "leaky_relu" else None)


def layers(name: str, channels: int, dtype=torch.float64, **options):
    """Ours and torch.nn's with the same parameters."""
    torch.manual_seed(1)
    ours = BatchNorm2d(channels, activation=asked(name), dtype=dtype, **options)
    theirs = nn.BatchNorm2d(channels, dtype=dtype)
    with torch.no_grad():
        theirs.weight.copy_(ours.weight.uniform_(0.5, 1.5))
        theirs.bias.copy_(ours.bias.uniform_(-1.0, 1.0))
    return ours, theirs


def numbers(shape, channels_last: bool, dtype=torch.float64):
    torch.manual_seed(2)
    made = [torch.randn(shape, dtype=dtype) for _ in range(3)]
    return [x.to(memory_format=torch.channels_last) for x in made] if channels_last else made


def gradients(y, dy, layer, *inputs):
    return torch.autograd.grad(y, [*inputs, layer.weight, layer.bias], dy)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_step_is_that_of_three_operations(name: str, residual: bool, shape, channels_last: bool) -> None:
    ours, theirs = layers(name, shape[1])
    x, z, dy = numbers(shape, channels_last)
    inputs = [each.requires_grad_() for each in ((x, z) if residual else (x,))]
    y = ours(x, residual=z) if residual else ours(x)
    u = theirs(x)
    expected = FUNCTIONS[name](u + z if residual else u)
    assert_close(y.detach(), expected.detach(), "float64", "y")
    assert y.stride() == x.stride()
    found, wanted = gradients(y, dy, ours, *inputs), gradients(expected, dy, theirs, *inputs)
    for got, want in zip(found, wanted, strict=True):
        assert_close(got, want, "float64", "a gradient", within=1e-10)
    for buffer in ("running_mean", "running_var"):
        assert_close(getattr(ours, buffer), getattr(theirs, buffer), "float64", buffer)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        u = theirs(x)
        want = FUNCTIONS[name](u + z if residual else u)
        assert_close(ours(x, residual=z if residual else None), want, "float64", "y in evaluation")


OPTIONS = {
    "renorm": {"renorm": True},
    "ghosts": {"virtual_batch_size": 4},
    "contiguous ghosts": {"virtual_batch_size": 4, "ghost_order": "contiguous"},
    "zero-debias": {"zero_debias": True},
    "adjustment": {
        "adjustment": lambda shape: (torch.full((1, 6, 1, 1), 1.5), torch.full((8, 1, 1, 1), 0.5))
    },
    "plain operations": {"fused": False},
    "averages by group": {"virtual_batch_size": 4, "ghost_averages": "group"},
    "remainder": {"virtual_batch_size": 3, "ghost_remainder": "smaller"},
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_comes_before_the_activation(name: str, weighted: bool) -> None:
    """The same layer without an activation, followed by it."""
    ours, _ = layers("silu", 6, **OPTIONS[name])
    plain = BatchNorm2d(6, dtype=torch.float64, **OPTIONS[name])
    plain.load_state_dict(ours.state_dict())
    x, z, dy = numbers(SMALL, False)
    weight = torch.rand(SMALL[0], dtype=torch.float64) if weighted else None
    for step in range(3):
        inputs = [each.requires_grad_() for each in (x, z)]
        y = ours(x, weight, residual=z)
        expected = functional.silu(plain(x, weight) + z)
        assert_close(y.detach(), expected.detach(), "float64", f"y of step {step}")
        found, wanted = gradients(y, dy, ours, *inputs), gradients(expected, dy, plain, *inputs)
        for got, want in zip(found, wanted, strict=True):
            assert_close(got, want, "float64", f"a gradient of step {step}", within=1e-9)
        for buffer, value in plain.named_buffers():
            assert_close(ours.get_buffer(buffer), value, "float64", buffer)
        x = (x + 0.1).detach()


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits_are_rounded_once(dtype: torch.dtype, shape) -> None:
    ours, theirs = layers("silu", shape[1], torch.float32)
    x, z, _ = (each.to(dtype) for each in numbers(shape, False, torch.float32))
    y = ours(x, residual=z)
    exact = functional.silu(theirs(x.float()) + z.float())
    assert y.dtype is dtype
    # Half a unit in the last place, and what float32 itself leaves open.
    bound = torch.finfo(dtype).eps / 2 * exact.abs() * 1.01 + 1e-6
    assert ((y.float() - exact).abs() <= bound).all()


def test_only_what_needs_a_gradient_gets_one() -> None:
    for shape in (SMALL, LARGE):
        x, z, dy = numbers(shape, True)
        ours, theirs = layers("relu", shape[1])
        z.requires_grad_()
        y, expected = ours(x, residual=z), functional.relu(theirs(x) + z)
        for got, want in zip(gradients(y, dy, ours, z), gradients(expected, dy, theirs, z), strict=True):
            assert_close(got, want, "float64", "a gradient", within=1e-10)
        ours.requires_grad_(False)
        theirs.requires_grad_(False)
        (got,) = torch.autograd.grad(ours(x, residual=z), z, dy)
        (want,) = torch.autograd.grad(functional.relu(theirs(x) + z), z, dy)
        assert_close(got, want, "float64", "the residual's gradient alone", within=1e-10)


@pytest.mark.parametrize("shape", [(6, 3, 2, 2), LARGE], ids=["small", "large"])
def test_second_derivatives(shape) -> None:
    ours, theirs = layers("silu", shape[1])
    x, z, dy = numbers(shape, False)

    def second(call, layer):
        inputs = [each.clone().requires_grad_() for each in (x, z)]
        first = torch.autograd.grad(call(*inputs), [*inputs, layer.weight], dy, create_graph=True)
        return torch.autograd.grad(sum(each.square().sum() for each in first), [*inputs, layer.weight])

    found = second(lambda x, z: ours(x, residual=z), ours)
    wanted = second(lambda x, z: functional.silu(theirs(x) + z), theirs)
    for got, want in zip(found, wanted, strict=True):
        assert_close(got, want, "float64", "a second derivative", within=1e-8)


def test_transforms_see_it() -> None:
    ours, theirs = layers("gelu", 6)
    x, z, dy = numbers(SMALL, False)
    ours.track_running_stats = theirs.track_running_stats = False
    for call in (torch.func.vjp, torch.func.linearize):
        _, push = call(lambda x, z: ours(x, residual=z), x, z)[:2]
        _, wanted = call(lambda x, z: functional.gelu(theirs(x) + z), x, z)[:2]
        given = (dy,) if call is torch.func.vjp else (dy, dy)
        for got, want in zip(push(*given), wanted(*given), strict=True):
            assert_close(got.detach(), want.detach(), "float64", call.__name__, within=1e-9)


def test_it_is_seen_and_survives_copies() -> None:
    layer = BatchNorm1d(4, activation=Activation("leaky_relu", 0.1))
    assert "activation=Activation(name='leaky_relu', slope=0.1)" in repr(layer)
    assert layer.activation == Activation("leaky_relu", 0.1)
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    x = torch.randn(8, 4)
    for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        torch.testing.assert_close(other(x), layer(x))
    assert BatchNorm1d(4, activation="identity").activation is None
    assert layer.state_dict().keys() == nn.BatchNorm1d(4).state_dict().keys()


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"activation='rleu' was asked for\. There is no such activation"):
        BatchNorm1d(4, activation="rleu")
    with pytest.raises(
        TypeError, match=r"activation=ReLU\(\) was asked for\. An activation is given by its name"
    ):
        BatchNorm1d(4, activation=nn.ReLU())
    layer = BatchNorm1d(4, activation="relu")
    with pytest.raises(ValueError, match=r"residual of shape \(4,\) came with an input of shape \(8, 4\)"):
        layer(torch.randn(8, 4), residual=torch.randn(4))
    assert layer.num_batches_tracked == 0
    with pytest.raises(ValueError, match="train differently from this one"):
        convert(nn.Sequential(layer), back=True)


def test_convert_gives_all_layers_one() -> None:
    model = convert(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)), activation="relu")
    assert (model(torch.randn(8, 4)) >= 0).all()
