"""The PyTorch engine: higher derivatives, kernels on every layout, state that moves on, and processes together."""

import socket
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from batchnorm._core.engine import Inputs
from batchnorm._core.state import advance, initial_state
from batchnorm._core.step import infer, train
from batchnorm._engines.torch import engine, fused_step, ops
from batchnorm.layout import plan_layout
from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Case, batches_of, initial_of
from properties.torch_runner import Torch, forward, tensor_of, tensors_of
from tolerances import assert_close

pytestmark = pytest.mark.needs("torch")

# r and d are constants of the gradient. Bounds that hold them make them constants of the slopes as well.
HELD = Clip(rmin=1.2, rmax=1.2, dmax=0.01)
CASES = {
    "plain": Case(Options((-1,)), (5, 3)),
    "composed": Case(Options((-1,), fused=False), (5, 3)),
    "no affine": Case(Options((1,), with_gamma=False, with_beta=False), (3, 2, 3)),
    "two axes": Case(Options((1, 3)), (3, 2, 2, 2)),
    "element weights": Case(Options((1,)), (3, 2, 2), weights=(3, 2, 2)),
    "zero weights": Case(Options((-1,)), (6, 2), weights=(6, 1), weightless="some"),
    "interleaved": Case(Options((-1,), ghost=Ghost(3)), (6, 2), weights=(6, 1)),
    "contiguous": Case(Options((1,), ghost=Ghost(2, "contiguous")), (4, 2, 2)),
    "channel adjustment": Case(Options((1,)), (4, 2, 2), adjustment=((1, 2, 1), (2, 1))),
    "example adjustment": Case(Options((-1,)), (5, 3), adjustment=((5, 1), (5, 3))),
    "renorm": Case(Options((-1,), renorm=Renorm(HELD)), (5, 3), offset=5.0),
    "renorm and ghosts": Case(Options((-1,), renorm=Renorm(HELD), ghost=Ghost(3)), (6, 2), offset=5.0),
}


def state_of(case: Case) -> dict[str, Any]:
    return initial_state(ops, case.options, *map(tensor_of, initial_of(case)))


def function_of(case: Case) -> tuple[Any, list[Any]]:
    """y as a function of all that has a gradient, and the point to derive it at."""
    given, state = tensors_of(batches_of(case)[0]), state_of(case)
    for value in given.values():
        value.requires_grad_()
        if case.weightless == "some" and value.shape == case.weights:
            # A slope across zero would be that of negative weights.
            value.requires_grad_(False)

    def run(*values: Any) -> Any:
        return forward(case.options, dict(zip(given, values, strict=True)), state)[0]

    return run, list(given.values())


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_derivatives_are_slopes(name: str) -> None:
    run, point = function_of(CASES[name])
    assert torch.autograd.gradcheck(run, point)
    assert torch.autograd.gradgradcheck(run, point, fast_mode=True)


@pytest.mark.parametrize("name", ["plain", "element weights", "renorm and ghosts"])
def test_third_derivatives_are_those_of_the_composed_passes(name: str) -> None:
    def third(case: Case) -> list[Any]:
        run, point = function_of(case)
        level = run(*point).pow(3).sum()
        for _ in range(2):
            found = torch.autograd.grad(level, point, create_graph=True)
            level = sum(value.pow(2).sum() for value in found)
        return [value.detach().numpy() for value in torch.autograd.grad(level, point)]

    case = CASES[name]
    plainly = replace(case, options=replace(case.options, fused=False))
    for ours, theirs in zip(third(case), third(plainly), strict=True):
        assert_close(ours, theirs, "float64", name, scale=np.max(np.abs(theirs)), within=1e-9)


@pytest.mark.parametrize("name", ["plain", "element weights", "renorm and ghosts"])
def test_forward_mode_agrees_with_reverse_mode(name: str) -> None:
    run, point = function_of(CASES[name])
    directions = [torch.randn_like(value) for value in point]
    dy = torch.randn_like(point[0])
    _, slope = torch.func.jvp(run, tuple(point), tuple(directions))
    backward = torch.autograd.grad(run(*point), point, dy)
    total = sum((d * g).sum() for d, g in zip(directions, backward, strict=True))
    assert_close((slope * dy).sum().detach(), total, "float64", name, within=1e-10)


def test_a_state_that_moves_on_leaves_the_gradients_alone() -> None:
    case = CASES["renorm"]
    _, point = function_of(case)
    state = state_of(case)
    given = dict(zip(tensors_of(batches_of(case)[0]), point, strict=True))
    found = []
    for spoil in (False, True):
        y, _ = forward(case.options, given, state)
        if spoil:
            for value in state.values():
                value.fill_(100.0)
        first = torch.autograd.grad(y.pow(2).sum(), point, create_graph=True)
        found.append([*first, *torch.autograd.grad(sum(value.pow(2).sum() for value in first), point)])
    for clean, spoiled in zip(*found, strict=True):
        assert torch.equal(clean, spoiled)


@pytest.mark.parametrize("mean", [1e4, 1e6])
@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize(
    "options", [{}, {"renorm": Renorm()}, {"ghost": Ghost(32)}, {"fused": False}], ids=str
)
def test_a_large_mean_costs_no_digits_that_the_input_has(mean: float, axis: int, options: dict) -> None:
    case = Case(Options((axis,), epsilon=1e-5, decay=0.0, **options), (64, 4, 5, 4), "float32", offset=0.0)
    x = (torch.randn(case.shape, generator=torch.Generator().manual_seed(0)) + mean).float()
    state = initial_state(ops, case.options, torch.full((4,), mean), torch.ones(4))
    layout = plan_layout(x.shape, case.options.axes, case.options.ghost)
    y, batch = train(engine, case.options, layout, Inputs(x, None, None, None, state))
    wide = x.double().numpy()
    reduced = tuple(a for a in range(4) if a != axis % 4)
    assert float(batch.variance.min()) > 0.5
    if "ghost" in options:
        return
    # PyTorch's own kernel rounds the mean before it takes the deviations; elsewhere no digit is lost.
    within = 1e-2 if not options else 1e-5
    assert_close(batch.variance, wide.var(axis=reduced), "float32", "variance", within=within)
    center, spread = wide.mean(reduced, keepdims=True), np.sqrt(wide.var(reduced, keepdims=True) + 1e-5)
    exact = wide - mean if "renorm" in options else (wide - center) / spread
    # Some units in the last place of x are what the mean and y can be off by.
    assert_close(y, exact, "float32", "y", within=8 * np.spacing(np.float32(mean)))


LAYOUTS = [
    ((12, 5), (1,), None),
    ((12, 5), (1,), Ghost(4)),
    ((12, 5), (1,), Ghost(4, "contiguous")),
    ((12, 5, 3), (1,), Ghost(4)),
    ((12, 5, 3), (1,), Ghost(4, "contiguous")),
    ((12, 3, 2, 5), (-1,), Ghost(4)),
    ((12, 3, 2, 5), (-1,), Ghost(4, "contiguous")),
    ((6, 3, 2, 5), (1, 3), None),
    ((6, 3, 2, 5), (1, 3), Ghost(2)),
    ((6, 3, 2, 2, 5), (1, 3), Ghost(2, "contiguous")),
    ((6, 3, 2), (0, 2), None),
    ((2, 3, 2, 2, 4), (0, 2, 4), None),
]


@pytest.mark.parametrize("least", [fused_step.LARGE_GROUP, 1], ids=["one call", "a call per group"])
@pytest.mark.parametrize(("shape", "axes", "ghost"), LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
def test_the_kernel_on_any_layout_is_the_core(
    monkeypatch, shape, axes, ghost, dtype: str, least: int
) -> None:
    monkeypatch.setattr(fused_step, "LARGE_GROUP", least)
    options = Options(axes, decay=0.9, epsilon=1e-3, variance="sample", ghost=ghost, fused=False)
    case = Case(options, shape, dtype, steps=1)
    (batch,) = batches_of(case)
    mean, variance = map(tensor_of, initial_of(case))
    (expected,) = Torch("eager").train(options, initial_of(case), [batch])
    given = {name: value.requires_grad_() for name, value in tensors_of(batch).items()}
    layout = plan_layout(shape, axes, ghost)
    y = fused_step.grouped_batch_norm(
        given["dx"], given["dgamma"], given["dbeta"], mean, variance, 0.1, 1e-3, layout
    )
    gradients = torch.autograd.grad(y, list(given.values()), tensor_of(batch.dy))
    assert y.dtype == given["dx"].dtype
    assert_close(y.detach().double(), expected.y, dtype, "y", scale=10.0)
    held = "float64" if dtype == "float64" else "float32"
    assert_close(mean.double(), expected.state["moving_mean"], held, "mean")
    assert_close(variance.double(), expected.state["moving_variance"], held, "variance")
    for name, value in zip(given, gradients, strict=True):
        want = expected.gradients[name]
        scale = 10.0 + np.abs(want).max()
        assert_close(value.double(), want, dtype if name == "dx" else held, name, scale=scale)


def infer_with(options: Options, layout: Any, state: Any, x: Any) -> Any:
    return infer(engine, options, layout, Inputs(x, None, None, None, state))


def test_inference_is_one_operation_of_the_frameworks() -> None:
    """What exporters look for."""
    from torch.fx.experimental.proxy_tensor import make_fx

    for shape, axes in (((4, 3, 2, 2), (1,)), ((4, 2, 2, 3), (-1,)), ((4, 3), (1,))):
        options = Options(axes)
        state = initial_state(ops, options, torch.zeros(3), torch.ones(3))

        layout = plan_layout(shape, axes)
        run = partial(infer_with, options, layout, state)
        names = [str(node.target) for node in make_fx(run)(torch.randn(shape)).graph.nodes]
        assert any("batch_norm" in name for name in names), names


PARTS = (3, 7)


def replica(rank: int, port: int, queue: Any) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(PARTS)
    )
    queue.put((rank, run_part(rank)))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def run_part(rank: int | None) -> list[Any]:
    """y, dx, the variance and dx of a gradient penalty, of one replica's examples or of all."""
    options = Options((-1,), synchronized=True)
    x, dy, weights = torch.randn(
        3, sum(PARTS), 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    rows = slice(None) if rank is None else slice(sum(PARTS[:rank]), sum(PARTS[: rank + 1]))
    x, dy, weights = x[rows].requires_grad_(), dy[rows], weights[rows, :1].abs()
    state = initial_state(ops, options, torch.zeros(4).double(), torch.ones(4).double())
    y, batch = train(engine, options, plan_layout(x.shape, (-1,)), Inputs(x, None, None, weights, state))
    (dx,) = torch.autograd.grad((y * dy).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(dx.pow(2).sum(), x)
    values = y, dx, advance(ops, options, state, batch)["moving_variance"], second
    return [value.detach().numpy() for value in values]


def test_processes_of_a_group_are_one_batch() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=replica, args=(rank, port, queue)) for rank in range(len(PARTS))]
    for process in processes:
        process.start()
    found = dict(queue.get(timeout=120) for _ in processes)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    whole = run_part(None)
    for what, index in (("y", 0), ("dx", 1), ("dx of a penalty", 3)):
        joined = np.concatenate([found[rank][index] for rank in range(len(PARTS))])
        assert_close(joined, whole[index], "float64", what, within=1e-10)
    for rank in found:
        assert_close(found[rank][2], whole[2], "float64", "variance")
