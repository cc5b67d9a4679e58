"""Where the CPU kernels do not go with PyTorch's tensors, and which threads they work in."""

import threading
import warnings

import pytest
import torch

import batchnorm.torch as bt
from batchnorm import _kernels
from batchnorm._engines.torch import cpu_kernels
from unit.torch_tensors import Tensor, close, normal

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.skipif(not _kernels.available(), reason=f"CPU kernels: {_kernels.why_missing()}"),
    pytest.mark.usefixtures("small_inputs_too"),
]


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


def test_several_gradients_of_the_parameters_alone_go_another_way(calls) -> None:
    layer, x = bt.BatchNorm2d(5), normal(6, 5, 7, 4)
    parameters, y = list(layer.parameters()), layer(x)
    directions = normal(3, *y.shape, seed=1)
    together = torch.autograd.grad(y, parameters, directions, is_grads_batched=True, retain_graph=True)
    assert calls == ["train"]
    for each, dy in enumerate(directions):
        for got, want in zip(
            together, torch.autograd.grad(y, parameters, dy, retain_graph=True), strict=True
        ):
            close(got[each], want, torch.float32, "a parameter's gradient")


def test_as_many_threads_work_as_pytorch_uses(monkeypatch) -> None:
    asked: list[int] = []
    train_by = cpu_kernels.train_by
    monkeypatch.setattr(
        cpu_kernels,
        "train_by",
        lambda found, *rest: (asked.append(abs(found.threads)), train_by(found, *rest))[1],
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
