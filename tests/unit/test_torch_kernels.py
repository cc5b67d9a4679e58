"""PyTorch's tensors on the CPU kernels: against float64, and with all derivatives."""

from typing import Any

import pytest
import torch

import batchnorm.torch as bt
from batchnorm import Ghost, _kernels
from batchnorm._core.composed import Composed
from batchnorm._core.engine import GradTerms, Inputs, Saved
from batchnorm._engines.torch import engine as passes
from batchnorm.layout import plan_layout
from tolerances import dtype_name
from unit.torch_tensors import MEMORY, Tensor, close, normal
from unit.whole_moments import whole

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}"),
    pytest.mark.usefixtures("small_inputs_too"),
]

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
LAYOUTS = {
    "channels last": ((6, 5, 7, 13), (3,), None),
    "channels first": ((6, 13, 5, 7), (1,), None),
    "rows": ((9, 13), (1,), None),
    "interleaved": ((6, 5, 7, 13), (3,), Ghost(2)),
    "contiguous": ((6, 5, 7, 13), (3,), Ghost(2, "contiguous")),
    "interleaved, channels first": ((6, 13, 5, 7), (1,), Ghost(3)),
    "contiguous, channels first": ((6, 13, 5, 7), (1,), Ghost(3, "contiguous")),
    "two axes": ((6, 5, 7, 13), (1, 3), None),
    "two axes and ghosts": ((6, 5, 7, 13), (1, 3), Ghost(2)),
    "single numbers": ((1, 13), (1,), None),
}
composed: Composed[Any] = passes.composed


def specialize(x: Tensor, weights: Tensor | None, layout: Any) -> Any:
    engine = passes.specialize(layout, Inputs(x, None, None, weights, {}))
    assert engine is not None
    return engine


def lowered(*values: Tensor) -> list[Any]:
    """As the engine of a step on the kernels takes statistics."""
    return [value.numpy() for value in values]


@pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
@pytest.mark.parametrize("case", LAYOUTS)
def test_every_pass_is_the_composed_one(calls, case: str, dtype: Any) -> None:
    shape, axes, ghost = LAYOUTS[case]
    layout = plan_layout(shape, axes, ghost)
    stat = torch.float64 if dtype == torch.float64 else torch.float32
    x, dy = normal(*shape, mean=2.0, dtype=dtype), normal(*shape, seed=1, dtype=dtype)
    rows = normal(5, layout.ghosts, layout.channels, seed=2, dtype=stat)
    gamma, beta = normal(2, layout.channels, seed=3, dtype=stat)
    weights = normal(*layout.weight_shape, seed=4, dtype=stat).abs()
    wide = [value.double() for value in (x, dy, rows, weights)]

    for given, wider in ((None, None), (weights, wide[3])):
        if given is not None and case == "two axes and ghosts":
            continue
        engine = specialize(x, given, layout)
        found = engine.moments(x, given, layout)
        wanted = whole(composed.moments(wide[0], wider, layout))
        for name, got in whole(found).items():
            want = wanted[name]
            assert isinstance(got, float) == (given is None and name in ("total", "effective_count"))
            close(torch.as_tensor(got), torch.as_tensor(want), stat, name, summands=x.numel())
        terms = GradTerms(*rows[:3]), GradTerms(*wide[2][:3])
        got = engine.grad_input(dy, x, given, *lowered(rows[3]), GradTerms(*lowered(*terms[0])), layout)
        want = composed.grad_input(wide[1], wide[0], wider, wide[2][3], terms[1], layout)
        assert got.dtype == dtype
        close(got, want, dtype, "dx", scale=10.0 + want.abs())
    engine = specialize(x, None, layout)
    got, want = engine.apply(x, *lowered(*rows[:3]), layout), composed.apply(wide[0], *wide[2][:3], layout)
    assert got.dtype == dtype
    close(got, want, dtype, "apply", scale=10.0 + want.abs())
    sums = (
        engine.grad_sums(dy, x, *lowered(rows[0]), layout),
        composed.grad_sums(wide[1], wide[0], wide[2][0], layout),
    )
    for got, want in zip(*sums, strict=True):
        close(torch.as_tensor(got), want, stat, "sums", summands=x.numel(), scale=10.0 + want.abs())
    assert {"moments", "apply", "grad_sums", "grad_input"} == set(calls)

    y, moments, scale = engine.fused_train(x, *lowered(gamma, beta), 0.1, layout)
    mean, variance = composed.moments(wide[0], None, layout)[2:4]
    slope = gamma.double() / (variance + 0.1).sqrt()
    close(torch.as_tensor(moments.mean), mean, stat, "mean")
    close(torch.as_tensor(moments.variance), variance, stat, "variance")
    close(torch.as_tensor(scale), slope, stat, "scale")
    close(
        y, composed.apply(wide[0], mean, slope, beta.double().expand_as(slope), layout), dtype, "y", scale=9.0
    )
    saved = Saved(moments.total, moments.center, moments.offset, moments.variance, scale, None, None)
    found = engine.fused_gradients(dy, x, saved, 0.1, layout)
    first, second = composed.grad_sums(wide[1], wide[0], mean, layout)
    inverse = 1.0 / (variance + 0.1).sqrt()
    share = slope / layout.count
    dx_terms = GradTerms(slope, -share * inverse * inverse * second, -share * first)
    dx = composed.grad_input(wide[1], wide[0], None, mean, dx_terms, layout)
    close(found[0], dx, dtype, "dx", scale=10.0)
    close(torch.as_tensor(found[1]), first, stat, "sum of dy", summands=x.numel(), scale=10.0 + first.abs())
    close(
        torch.as_tensor(found[2]),
        second * inverse,
        stat,
        "sum of dy x",
        summands=x.numel(),
        scale=10.0 + first.abs(),
    )
    assert calls[-2:] == ["train", "gradients"]


def test_weights_that_no_kernel_takes_go_the_composed_way(calls) -> None:
    x = normal(6, 5, 7, 13)
    for axes, ghost, shape in (((3,), None, (6, 5, 7, 13)), ((1, 3), Ghost(2), (6, 1, 7, 1))):
        layout = plan_layout(x.shape, axes, ghost)
        weights = normal(*shape, seed=1).abs()
        found, want = (
            specialize(x, weights, layout).moments(x, weights, layout),
            composed.moments(x.double(), weights.double(), layout),
        )
        close(torch.as_tensor(found.variance), want.variance, torch.float32, "variance", summands=x.numel())
    assert calls == []


@pytest.mark.parametrize("options", [{}, {"virtual_batch_size": 3}], ids=str)
@pytest.mark.parametrize("held", ["float32", "float64", "bfloat16", "mixed", "half"])
@pytest.mark.parametrize("memory", MEMORY)
def test_layers_in_every_memory_order_and_type(calls, memory: str, held: str, options: dict) -> None:
    parameter, dtype = {
        "mixed": (torch.float32, torch.bfloat16),
        "half": (torch.float32, torch.float16),
    }.get(held, (getattr(torch, held, None),) * 2)
    theirs, layer = torch.nn.BatchNorm2d(5), bt.BatchNorm2d(5, **options)
    for each in (theirs, layer):
        each.to(torch.float64 if each is theirs else parameter)
        with torch.no_grad():
            each.weight.copy_(torch.linspace(0.5, 2.0, 5))
            each.bias.copy_(torch.linspace(-1.0, 1.0, 5))
    x = MEMORY[memory](normal(6, 5, 7, 4, mean=1.0).to(dtype)).requires_grad_()
    dy = normal(6, 5, 7, 4, seed=1).to(dtype)
    wide = x.detach().double().requires_grad_()
    want = (
        theirs(wide) if not options else torch.stack([theirs(wide[i::2]) for i in range(2)], 1).flatten(0, 1)
    )
    y = layer(x)
    assert y.dtype == dtype
    assert y.stride() == x.stride() or memory == "with gaps"
    close(y, want, dtype, "y", scale=10.0)
    for name, got, expected in zip(
        ("x", "weight", "bias"),
        torch.autograd.grad(y, [x, layer.weight, layer.bias], dy),
        torch.autograd.grad(want, [wide, theirs.weight, theirs.bias], dy.double()),
        strict=True,
    ):
        assert got.dtype == (dtype if name == "x" else parameter)
        close(got, expected, got.dtype, name, scale=20.0)
    if not options:
        within = 1e-2 if held == "bfloat16" else 1e-5
        close(layer.running_mean, theirs.running_mean, parameter, "running mean", within=within)
        close(layer.running_var, theirs.running_var, parameter, "running variance", within=within)
    assert calls == ([] if memory == "with gaps" else ["train", "gradients"])


def test_what_needs_no_gradient_costs_none(calls) -> None:
    layer, x = bt.BatchNorm2d(5), normal(6, 5, 7, 4)
    theirs = torch.nn.BatchNorm2d(5)
    with torch.no_grad():
        assert not layer(x).requires_grad
    assert calls == ["train"]
    pairs = [torch.autograd.grad(each(x).pow(3).sum(), list(each.parameters())) for each in (layer, theirs)]
    for got, want in zip(*pairs, strict=True):
        close(got, want, torch.float32, "parameters", scale=1e3)
    assert calls[2:] == ["grad_sums"]
    bare = bt.BatchNorm2d(5, affine=False)
    point = x.clone().requires_grad_()
    bare(point).pow(3).sum().backward()
    again = x.clone().requires_grad_()
    torch.nn.BatchNorm2d(5, affine=False)(again).pow(3).sum().backward()
    close(point.grad, again.grad, torch.float32, "without gamma and beta")


@pytest.mark.parametrize("options", [{}, {"affine": False}, {"virtual_batch_size": 2}], ids=str)
def test_second_derivatives_are_slopes(calls, options: dict) -> None:
    layer = bt.BatchNorm2d(2, dtype=torch.float64, **options)
    parameters = list(layer.parameters())
    x = normal(4, 2, 3, 2, dtype=torch.float64).requires_grad_()

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return layer(x)

    assert torch.autograd.gradcheck(run, (x, *parameters))
    assert torch.autograd.gradgradcheck(run, (x, *parameters))
    assert "train" in calls
    assert "gradients" in calls


def test_inference_along_two_axes_has_a_gradient(calls) -> None:
    layer = bt.BatchNorm2d(20, axis=(1, 3)).eval()
    x = normal(6, 5, 7, 4)
    with torch.no_grad():
        want = layer(x)
    assert calls == ["infer"]
    y = layer(x)
    (slope,) = torch.autograd.grad(y.sum(), layer.bias)
    assert calls == ["infer"]
    close(y, want, torch.float32, "y")
    assert torch.equal(slope, torch.full((20,), 42.0))


def test_an_input_that_was_written_over_is_noticed() -> None:
    x = normal(6, 5, 7, 4).requires_grad_()
    z = x * 1.0
    y = bt.BatchNorm2d(5)(z)
    z.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("mean", [1e4, 1e6])
@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"virtual_batch_size": 32}], ids=str)
def test_a_mean_far_from_zero_costs_no_digits(calls, mean: float, options: dict) -> None:
    layer = bt.BatchNorm2d(4, momentum=1.0, **options)
    x = normal(64, 4, 6, 5, mean=mean)
    layer(x)
    assert calls
    wide = x.double()
    groups = wide.reshape(32, 2, 4, 30).transpose(0, 1) if "virtual_batch_size" in options else wide[None]
    variance = groups.movedim(-2 if groups.dim() == 4 else 2, 1).flatten(2)
    want = variance.var(2, correction=0 if "renorm" in options else 1).mean(0)
    close(layer.running_var, want, torch.float32, "variance", within=1e-5)
