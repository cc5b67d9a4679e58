"""PyTorch's compilers: our operations in compiled graphs, and none in exported programs."""

import copy
import warnings
from typing import Any

import pytest
import torch

import batchnorm
import batchnorm.torch as bt
from batchnorm import Ghost, Options, Renorm, _kernels
from unit.torch_tensors import MEMORY, Tensor, close, normal

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.slow(2),
    pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}"),
    pytest.mark.usefixtures("small_inputs_too"),
]

COMPILED = {
    "plain": {},
    "a plain average": {"momentum": None},
    "no affine": {"affine": False},
    "interleaved": {"virtual_batch_size": 3},
    "contiguous": {"virtual_batch_size": 2, "ghost_order": "contiguous"},
    "relu": {"activation": "relu"},
    "silu and ghosts": {"activation": "silu", "virtual_batch_size": 3},
    "last axis": {"num_features": 4, "axis": -1},
    "two axes": {"num_features": 20, "axis": (1, 3)},
    "permuted": {"num_features": 20, "axis": (1, 3), "virtual_batch_size": 2, "ghost_order": "contiguous"},
}


# PyTorch's own operation, which the compiler joins with those beside it.
JOINED = ("plain", "no affine", "relu")


def steps(layer: Any, memory: str) -> list[Tensor]:
    """Two training steps of a layer: outputs, gradients, and what it holds then."""
    found: list[Tensor] = []
    for seed in range(2):
        x = MEMORY[memory](normal(6, 5, 7, 4, seed=seed, mean=1.0)).requires_grad_()
        y = layer(x)
        found += [y.detach(), *torch.autograd.grad(y.pow(3).sum(), [x, *layer.parameters()])]
    return found + list(layer.state_dict().values())


# Every option on images whose channels come last in memory or do not, and every order of memory; compiling takes long.
PAIRS = [
    *((name, ("contiguous", "channels last")[turn % 2]) for turn, name in enumerate(COMPILED)),
    *((name, memory) for name in ("plain", "interleaved") for memory in MEMORY),
]


@pytest.mark.parametrize(("name", "memory"), dict.fromkeys(PAIRS))
def test_compiled_layers_call_the_kernels_where_the_compiler_has_nothing_better(
    calls, name: str, memory: str
) -> None:
    torch._dynamo.reset()
    layer = bt.BatchNorm2d(**{"num_features": 5, **COMPILED[name]})
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    found = steps(compiled, memory)
    assert calls == ([] if name in ("permuted", *JOINED) else ["train", "gradients"] * 2)
    for got, want in zip(found, steps(layer, memory), strict=True):
        close(got, want, torch.float32, name, scale=10.0 + want.abs().max(), within=1e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu", None])
def test_compiled_layers_add_a_residual_in_the_same_operation(calls, activation: str | None) -> None:
    torch._dynamo.reset()
    layer = bt.BatchNorm2d(5, activation=activation, virtual_batch_size=3)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    x, z = (normal(6, 5, 7, 4, seed=seed).requires_grad_() for seed in range(2))
    found = []
    for each in (compiled, layer):
        y = each(x, residual=z)
        found.append([y.detach(), *torch.autograd.grad(y.pow(3).sum(), [x, z, *each.parameters()])])
    assert calls == ["train", "gradients"] * 2
    for got, want in zip(*found, strict=True):
        close(got, want, torch.float32, "residual", scale=10.0 + want.abs().max(), within=1e-5)


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
            z = normal(*x.shape, dtype=dtype, seed=3).requires_grad_()
            for asked, residual in (
                (([1], 3, True, 0.1, "identity", 0.0), None),
                (([1], 0, False, 0.1, "leaky_relu", 0.2), None),
                (([1], 2, False, 0.1, "silu", 0.0), z),
            ):
                torch.library.opcheck(torch.ops.batchnorm.train, (x, gamma, beta, residual, *asked))
                known = None, beta.detach(), None if residual is None else residual.detach()
                y, statistics = torch.ops.batchnorm.train(x, *known, *asked)
                given = y.detach(), x.detach(), *known, statistics.detach(), *asked
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
