"""PyTorch's tensors on the CPU kernels: against float64, with all derivatives, and where the kernels do not go."""

import copy
import threading
import warnings
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs batchnorm[torch]")

import batchnorm  # noqa: E402
import batchnorm.torch as bt  # noqa: E402
from batchnorm import Ghost, Options, Renorm, _kernels  # noqa: E402
from batchnorm._engines.composed import Composed  # noqa: E402
from batchnorm._engines.protocol import GradTerms, Saved  # noqa: E402
from batchnorm._engines.torch import library, native, passes, plain  # noqa: E402
from batchnorm.layout import plan_layout  # noqa: E402
from tolerances import assert_close, dtype_name  # noqa: E402

pytestmark = pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}")

Tensor = torch.Tensor
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


@pytest.fixture(autouse=True)
def small_inputs_too(monkeypatch) -> None:
    """The layers then take the kernels from the first number on."""
    monkeypatch.setattr(plain, "LARGE_INPUT", 1)
    monkeypatch.setattr(library, "LARGE_INPUT", 1)


@pytest.fixture
def calls(monkeypatch) -> list[str]:
    """The kernels that were called, by name."""
    found: list[str] = []
    module = _kernels.load()

    class Spy:
        def __getattr__(self, name: str) -> Any:
            value = getattr(module, name)
            if not callable(value):
                return value

            def call(*arguments: Any) -> Any:
                found.append(name)
                return value(*arguments)

            return call

    monkeypatch.setattr(native, "load", Spy)
    return found


def normal(*shape: int, seed: int = 0, mean: float = 0.0, dtype: Any = torch.float32) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double() + mean).to(dtype)


def close(got: Tensor, want: Tensor, dtype: Any, what: str, **allowed: Any) -> None:
    assert_close(got.detach().double(), want.detach().double(), dtype_name(dtype), what, **allowed)


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
        found = passes.moments(x, given, layout)
        for name, got, want in zip(
            found._fields, found, composed.moments(wide[0], wider, layout), strict=True
        ):
            assert isinstance(got, float) == (given is None and name in ("total", "effective"))
            close(torch.as_tensor(got), torch.as_tensor(want), stat, name, summands=x.numel())
        terms = GradTerms(*rows[:3]), GradTerms(*wide[2][:3])
        got = passes.grad_input(dy, x, given, rows[3], terms[0], layout)
        want = composed.grad_input(wide[1], wide[0], wider, wide[2][3], terms[1], layout)
        assert got.dtype == dtype
        close(got, want, dtype, "dx", scale=10.0 + want.abs())
    got, want = passes.apply(x, *rows[:3], layout), composed.apply(wide[0], *wide[2][:3], layout)
    assert got.dtype == dtype
    close(got, want, dtype, "apply", scale=10.0 + want.abs())
    sums = passes.grad_sums(dy, x, rows[0], layout), composed.grad_sums(wide[1], wide[0], wide[2][0], layout)
    for got, want in zip(*sums, strict=True):
        close(got, want, stat, "sums", summands=x.numel(), scale=10.0 + want.abs())
    assert {"moments", "apply", "grad_sums", "grad_input"} == set(calls)

    y, moments, scale = passes.fused_train(x, gamma, beta, 0.1, layout)
    _, _, mean, variance = composed.moments(wide[0], None, layout)
    slope = gamma.double() / (variance + 0.1).sqrt()
    close(moments.mean, mean, stat, "mean")
    close(moments.variance, variance, stat, "variance")
    close(scale, slope, stat, "scale")
    close(
        y, composed.apply(wide[0], mean, slope, beta.double().expand_as(slope), layout), dtype, "y", scale=9.0
    )
    saved = Saved(moments.total, moments.mean, moments.variance, scale, None, None)
    found = passes.fused_gradients(dy, x, saved, 0.1, layout)
    first, second = composed.grad_sums(wide[1], wide[0], mean, layout)
    inverse = 1.0 / (variance + 0.1).sqrt()
    share = slope / layout.count
    dx_terms = GradTerms(slope, -share * inverse * inverse * second, -share * first)
    dx = composed.grad_input(wide[1], wide[0], None, mean, dx_terms, layout)
    close(found[0], dx, dtype, "dx", scale=10.0)
    close(found[1], first, stat, "sum of dy", summands=x.numel(), scale=10.0 + first.abs())
    close(found[2], second * inverse, stat, "sum of dy x", summands=x.numel(), scale=10.0 + first.abs())
    assert calls[-2:] == ["train", "gradients"]


def test_weights_that_no_kernel_takes_go_the_composed_way(calls) -> None:
    x = normal(6, 5, 7, 13)
    for axes, ghost, shape in (((3,), None, (6, 5, 7, 13)), ((1, 3), Ghost(2), (6, 1, 7, 1))):
        layout = plan_layout(x.shape, axes, ghost)
        weights = normal(*shape, seed=1).abs()
        found, want = (
            passes.moments(x, weights, layout),
            composed.moments(x.double(), weights.double(), layout),
        )
        close(found.variance, want.variance, torch.float32, "variance", summands=x.numel())
    assert calls == []


MEMORY = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.to(memory_format=torch.channels_last),
    "with gaps": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
}


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
    assert y.stride() == x.stride() or memory in ("with gaps", "transposed")
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
    assert calls == ([] if memory in ("with gaps", "transposed") else ["train", "gradients"])


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
    assert calls == ["apply"]
    y = layer(x)
    (slope,) = torch.autograd.grad(y.sum(), layer.bias)
    assert calls == ["apply"]
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


def some(x: Tensor) -> Tensor:
    return bt.BatchNorm2d(5, track_running_stats=False, affine=False)(x)


class Marked(torch.Tensor):
    """A subclass, as those are that keep their numbers elsewhere."""


def counted(x: Tensor) -> Tensor:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False):
        return some(x)


def proxied(x: Tensor) -> Tensor:
    from torch.fx.experimental.proxy_tensor import make_fx

    return make_fx(some)(normal(*x.shape, seed=9))(x)


def scripted(x: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(some, normal(*x.shape, seed=9), check_trace=False)(x)


def compiled_map(x: Tensor) -> Tensor:
    torch._dynamo.reset()
    mapped = torch.func.vmap(some)
    return torch.compile(lambda x: mapped(x[None])[0], fullgraph=True, backend="aot_eager")(x)


ELSEWHERE = {
    "torch.func": lambda x: torch.func.vjp(some, x)[0],
    "torch.func.vmap": lambda x: torch.func.vmap(some)(x[None])[0],
    "forward mode": lambda x: torch.func.jvp(some, (x,), (x,))[0],
    "torch.func.vmap, compiled": compiled_map,
    "torch.jit.trace": scripted,
    "make_fx": proxied,
    "a mode that sees operations": counted,
    "a subclass": lambda x: some(x.as_subclass(Marked)).as_subclass(torch.Tensor),
    "a sign not yet applied": lambda x: -some(torch._neg_view(x)),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_cannot_be_computed_by_address_goes_another_way(calls, name: str) -> None:
    x = normal(6, 5, 7, 4, mean=1.0)
    got = ELSEWHERE[name](x)
    assert calls == []
    close(got, some(x), torch.float32, name)
    assert calls == ["train"]


def test_tensors_without_numbers_have_shapes_all_the_same(calls) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert some(torch.empty(6, 5, 7, 4, device="meta")).shape == (6, 5, 7, 4)
    with FakeTensorMode():
        assert some(torch.empty(6, 5, 7, 4)).shape == (6, 5, 7, 4)
    assert calls == []


def test_several_gradients_at_once_go_another_way(calls) -> None:
    layer, x = bt.BatchNorm2d(5), normal(6, 5, 7, 4).requires_grad_()
    y = layer(x)
    directions = normal(3, *y.shape, seed=1)
    (together,) = torch.autograd.grad(y, x, directions, is_grads_batched=True, retain_graph=True)
    assert calls == ["train"]
    for got, dy in zip(together, directions, strict=True):
        close(got, torch.autograd.grad(y, x, dy, retain_graph=True)[0], torch.float32, "dx")


def test_as_many_threads_work_as_pytorch_uses(monkeypatch) -> None:
    asked: list[int] = []
    train_by = native.train_by
    monkeypatch.setattr(
        native, "train_by", lambda found, *rest: (asked.append(found.threads), train_by(found, *rest))[1]
    )
    before = torch.get_num_threads()
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            some(normal(6, 5, 7, 4))
    finally:
        torch.set_num_threads(before)
    assert asked == [1, 2]


def test_calls_from_several_threads_at_once_agree() -> None:
    x, dy = normal(8, 16, 40, 40), normal(8, 16, 40, 40, seed=1)

    def step() -> list[Tensor]:
        layer, point = bt.BatchNorm2d(16), x.clone().requires_grad_()
        y = layer(point)
        return [y.detach(), *torch.autograd.grad(y, [point, layer.weight], dy), layer.running_var]

    want, found = step(), []
    threads = [threading.Thread(target=lambda: found.extend(step() for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    for each in found:
        for got, expected in zip(each, want, strict=True):
            assert torch.equal(got, expected)


COMPILED = {
    "plain": {},
    "a plain average": {"momentum": None},
    "no affine": {"affine": False},
    "interleaved": {"virtual_batch_size": 3},
    "contiguous": {"virtual_batch_size": 2, "ghost_order": "contiguous"},
    "last axis": {"num_features": 4, "axis": -1},
    "two axes": {"num_features": 20, "axis": (1, 3)},
    "permuted": {"num_features": 20, "axis": (1, 3), "virtual_batch_size": 2, "ghost_order": "contiguous"},
}


def steps(layer: Any, memory: str) -> list[Tensor]:
    """Two training steps of a layer: outputs, gradients, and what it holds then."""
    found: list[Tensor] = []
    for seed in range(2):
        x = MEMORY[memory](normal(6, 5, 7, 4, seed=seed, mean=1.0)).requires_grad_()
        y = layer(x)
        found += [y.detach(), *torch.autograd.grad(y.pow(3).sum(), [x, *layer.parameters()])]
    return found + list(layer.state_dict().values())


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_layers_call_the_kernels(calls, name: str, memory: str) -> None:
    torch._dynamo.reset()
    layer = bt.BatchNorm2d(**{"num_features": 5, **COMPILED[name]})
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    found = steps(compiled, memory)
    assert calls == ([] if name == "permuted" else ["train", "gradients"] * 2)
    for got, want in zip(found, steps(layer, memory), strict=True):
        close(got, want, torch.float32, name, scale=10.0 + want.abs().max(), within=1e-5)


def test_one_compiled_graph_serves_batches_of_every_size(calls) -> None:
    torch._dynamo.reset()
    layer, graphs = bt.BatchNorm2d(5, virtual_batch_size=2), []

    def backend(graph: Any, example: Any) -> Any:
        graphs.append(graph)
        return graph

    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, dynamic=True, backend=backend)
    for batch in (6, 8, 2, 20):
        close(
            compiled(normal(batch, 5, 7, 4)),
            layer(normal(batch, 5, 7, 4)),
            torch.float32,
            f"batch of {batch}",
        )
    assert calls == ["train"] * 8
    assert len(graphs) < 4


def test_the_operations_are_registered_as_pytorch_asks() -> None:
    gamma, beta = (normal(5, seed=seed).requires_grad_() for seed in (1, 2))
    for memory in ("contiguous", "channels last", "with gaps"):
        for dtype in (torch.float32, torch.bfloat16):
            x = MEMORY[memory](normal(6, 5, 7, 4, dtype=dtype)).requires_grad_()
            for asked in (([1], 3, True, 0.1), ([1], 0, False, 0.1), ([1], 2, False, 0.1)):
                torch.library.opcheck(torch.ops.batchnorm.train, (x, gamma, beta, *asked))
                y, statistics = torch.ops.batchnorm.train(x, None, beta, *asked)
                given = y.detach(), x.detach(), None, statistics.detach(), *asked
                torch.library.opcheck(torch.ops.batchnorm.gradients, given)


@pytest.mark.parametrize("name", ["plain", "interleaved"])
def test_exported_programs_hold_standard_operations_only(name: str) -> None:
    for training in (True, False):
        layer = bt.BatchNorm2d(5, **COMPILED[name]).train(training)
        for strict in (True, False):
            program = torch.export.export(layer, (normal(6, 5, 7, 4),), strict=strict)
            assert not [
                node
                for node in program.graph.nodes
                if "batchnorm::" in str(getattr(node.target, "_name", ""))
            ]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weights"])
@pytest.mark.parametrize("options", [{}, {"ghost": Ghost(2)}, {"renorm": Renorm()}], ids=str)
def test_the_pure_function_compiles_without_a_warning(options: dict, weighted: bool) -> None:
    asked = Options((1,), **options)
    x, weights = normal(4, 3, 5, 2), normal(4).abs() if weighted else None
    params, state = batchnorm.init(asked, x.shape, like=x)

    def function(x: Tensor, params: Any, state: Any) -> Any:
        return batchnorm.batch_norm(x, params, state, asked, training=True, weights=weights)

    def step(function: Any) -> list[Tensor]:
        points = [value.clone().requires_grad_() for value in (x, *params.values())]
        y, after = function(points[0], dict(zip(params, points[1:], strict=True)), state)
        return [y, *after.values(), *torch.autograd.grad(y.pow(3).sum(), points)]

    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # PyTorch's own, of a part that it has deprecated.
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.", category=DeprecationWarning)
        found = step(torch.compile(function, fullgraph=True, backend="aot_eager"))
    for got, want in zip(found, step(function), strict=True):
        close(got, want, torch.float32, "compiled", scale=1.0 + want.detach().abs().max(), within=1e-5)
