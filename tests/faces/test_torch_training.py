"""Training with the layers: checkpointing, accumulation, frozen layers, processes, and models converted in place."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm.torch as bt

pytestmark = pytest.mark.needs("torch")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain average": {"momentum": None},
    "renorm": {"renorm": True, "renorm_clipping": {"rmax": 2.0, "rmin": 0.5, "dmax": 1.0}, "momentum": 0.9},
    "schedule": {
        "renorm": True,
        "renorm_clipping": bt.clipping_schedule(1, 3.0, 3, 5.0, 3),
        "renorm_momentum": 0.5,
    },
    "ghosts": {"virtual_batch_size": 4},
    "zero-debias": {"zero_debias": True},
}


class Net(nn.Module):
    """One layer that is used twice, and one that is used once."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 1)
        self.norms = nn.ModuleList([bt.BatchNorm1d(6, **options), bt.BatchNorm1d(6, **options)])

    def block(self, x: Any, mask: Any = None) -> Any:
        x = self.norms[0](self.first(x).tanh(), mask=mask)
        x = self.norms[1](x * 2 + 1)
        return self.norms[0](x.sin(), mask=mask)

    def forward(self, x: Any) -> Any:
        return self.last(self.block(x))


def gradients(net: Any) -> list[Any]:
    return [parameter.grad for parameter in net.parameters()]


def assert_equal(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("name", OPTIONS)
def test_checkpointing_counts_once_and_has_the_same_gradients(name: str, masked: bool) -> None:
    net = Net(**OPTIONS[name])
    other = copy.deepcopy(net)
    mask = torch.rand(8) < 0.7 if masked else None
    for _ in range(3):
        x = torch.randn(8, 5) * 2 + 1
        net.zero_grad(), other.zero_grad()
        net.last(net.block(x, mask)).pow(2).sum().backward()
        run = checkpoint(other.block, x, mask, use_reentrant=False, context_fn=bt.checkpoint_contexts)
        other.last(run).pow(2).sum().backward()
        assert_equal(gradients(other), gradients(net))
        assert_equal(list(other.buffers()), list(net.buffers()))


def test_without_the_contexts_checkpointing_counts_twice() -> None:
    """What they are for; if this changes in PyTorch they can go."""
    layer = bt.BatchNorm1d(5)
    checkpoint(layer, torch.randn(8, 5).requires_grad_(), use_reentrant=False).sum().backward()
    assert int(layer.num_batches_tracked) == 2


def test_a_checkpoint_in_a_checkpoint() -> None:
    net = Net(**OPTIONS["renorm"])
    other = copy.deepcopy(net)

    def inner(x: Any) -> Any:
        return checkpoint(other.block, x, use_reentrant=False, context_fn=bt.checkpoint_contexts)

    for _ in range(2):
        x = (torch.randn(8, 5) * 2 + 1).requires_grad_()
        net.zero_grad(), other.zero_grad()
        net(x).pow(2).sum().backward()
        outer = checkpoint(inner, x, use_reentrant=False, context_fn=bt.checkpoint_contexts)
        other.last(outer).pow(2).sum().backward()
        assert_equal(gradients(other), gradients(net))
        assert_equal(list(other.buffers()), list(net.buffers()))


def test_a_graph_that_is_kept_is_recomputed_alike() -> None:
    net = Net(**OPTIONS["renorm"])
    x = torch.randn(8, 5)
    y = checkpoint(net.block, x, use_reentrant=False, context_fn=bt.checkpoint_contexts).sum()
    state = copy.deepcopy(net.state_dict())
    y.backward(retain_graph=True)
    once = [None if g is None else g.clone() for g in gradients(net)]
    y.backward()
    assert_equal([g for g in gradients(net) if g is not None], [2 * g for g in once if g is not None])
    assert_equal(list(net.state_dict().values()), list(state.values()))


@pytest.mark.parametrize("name", OPTIONS)
def test_frozen_statistics_stay(name: str) -> None:
    layer = bt.BatchNorm1d(5, **OPTIONS[name])
    layer(torch.randn(8, 5))
    before, again = copy.deepcopy(layer.state_dict()), copy.deepcopy(layer)
    x = torch.randn(8, 5)
    with bt.frozen_statistics():
        y = layer(x)
    assert_equal(list(layer.state_dict().values()), list(before.values()))
    assert_equal([y], [again(x)])
    with pytest.raises(ZeroDivisionError), bt.frozen_statistics():
        _ = 1 / 0
    layer(x)
    assert int(layer.num_batches_tracked) == 2


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_accumulate(name: str) -> None:
    net = Net(**OPTIONS[name])
    other = copy.deepcopy(net)
    parts = torch.randn(3, 8, 5)
    for part in parts:
        net(part).sum().backward()
    singles = []
    for part in parts:
        other.zero_grad()
        other(part).sum().backward()
        singles.append([g.clone() for g in gradients(other)])
    assert_equal(gradients(net), [sum(each) for each in zip(*singles, strict=True)])


@pytest.mark.parametrize("name", OPTIONS)
def test_frozen_layers_pass_gradients_on_and_keep_theirs(name: str) -> None:
    layer = bt.BatchNorm1d(5, **OPTIONS[name])
    layer.requires_grad_(False)
    x = torch.randn(8, 5).requires_grad_()
    layer(x).pow(2).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None
    layer.eval()
    before = copy.deepcopy(layer.state_dict())
    layer(x).sum().backward()
    assert_equal(list(layer.state_dict().values()), list(before.values()))
    # An input without a gradient, and parameters with one.
    layer.train().requires_grad_(True)
    layer(x.detach()).pow(2).sum().backward()
    assert layer.weight.grad is not None


def test_it_learns() -> None:
    net = Net(**OPTIONS["schedule"])
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    x = torch.randn(64, 5)
    target = (x[:, :1] * x[:, 1:2]).sign()
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (net(x) - target).pow(2).mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_distributed_data_parallel_broadcasts_the_buffers(tmp_path: Path) -> None:
    dist = torch.distributed
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        net = Net(**OPTIONS["renorm"])
        other = copy.deepcopy(net)
        parallel = nn.parallel.DistributedDataParallel(net)
        for _ in range(2):
            x = torch.randn(8, 5)
            net.zero_grad(), other.zero_grad()
            parallel(x).sum().backward()
            other(x).sum().backward()
            assert_equal(gradients(net), gradients(other))
            assert_equal(list(net.buffers()), list(other.buffers()))
    finally:
        dist.destroy_process_group()


def model_of() -> nn.Module:
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=0.2)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        norm,
        nn.Sequential(nn.ReLU(), norm),
        nn.SyncBatchNorm(4),
        nn.Flatten(),
        nn.BatchNorm1d(64, affine=False, momentum=None),
    )
    norm.weight.requires_grad_(False)
    model[5].eval()
    return model


def trained(model: nn.Module) -> None:
    model[1].train()
    for _ in range(2):
        model[1](torch.randn(6, 4, 3, 3) * 2 + 1)
        model[5].train()(torch.randn(6, 64))
    model[5].eval()


def test_convert_swaps_in_place_and_back() -> None:
    model = model_of()
    trained(model)
    calls: list[str] = []
    norm = model[1]
    norm.register_forward_hook(lambda *_: calls.append("forward"))
    norm.register_full_backward_hook(lambda *_: calls.append("backward"))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    parameters, state = list(model.parameters()), copy.deepcopy(model.state_dict())
    with pytest.warns(UserWarning, match=r"left 1 of .* 3 \(SyncBatchNorm\)"):
        assert bt.convert(model) is model
    assert type(norm) is bt.BatchNorm2d
    assert model[1] is norm is model[2][1]
    assert type(model[3]) is nn.SyncBatchNorm
    assert (norm.eps, norm.momentum, norm.weight.requires_grad, norm.training) == (1e-3, 0.2, False, True)
    assert (type(model[5]), model[5].training, model[5].momentum) == (bt.BatchNorm1d, False, None)
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))
    assert list(model.state_dict()) == list(state)
    norm(torch.randn(4, 4, 2, 2).requires_grad_()).sum().backward()
    assert calls == ["forward", "backward"]
    optimizer.step()
    assert bt.convert(model, back=True) is model
    assert type(norm) is nn.BatchNorm2d
    assert list(model.state_dict()) == list(state)
    assert norm.__dict__.keys() == nn.BatchNorm2d(4).__dict__.keys()
    norm(torch.randn(4, 4, 2, 2).requires_grad_()).sum().backward()
    assert calls == ["forward", "backward"] * 2


def test_convert_gives_options() -> None:
    model = model_of()
    trained(model)
    mean = model[1].running_mean.clone()
    with pytest.warns(UserWarning, match="SyncBatchNorm"):
        bt.convert(model, renorm=True, renorm_clipping={"rmax": 3.0})
    assert torch.equal(model[1].renorm_mean, mean)
    assert torch.equal(model[1].renorm_stddev, model[1].running_var.sqrt())
    fresh = bt.BatchNorm2d(4, 1e-3, 0.2, renorm=True, renorm_clipping={"rmax": 3.0})
    fresh.load_state_dict(model[1].state_dict())
    x = torch.randn(6, 4, 3, 3)
    assert torch.equal(model[1](x), fresh(x))
    with pytest.raises(ValueError, match=r"back=True.*layer '1' is BatchNorm2d\(4.*Pass force=True"):
        bt.convert(model, back=True)
    assert type(model[1]) is bt.BatchNorm2d
    bt.convert(model, back=True, force=True)
    assert list(model[1].state_dict()) == list(nn.BatchNorm2d(4).state_dict())
    assert type(bt.convert(nn.BatchNorm3d(2))) is bt.BatchNorm3d


def test_convert_refuses_before_it_changes_anything() -> None:
    model = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="track_running_stats=False"):
        bt.convert(model, renorm=True)
    with pytest.raises(TypeError, match="renrom"):
        bt.convert(model, renrom=True)
    with pytest.raises(ValueError, match=r"convert\(back=True\) was given renorm"):
        bt.convert(model, back=True, renorm=True)
    assert {type(layer) for layer in model} == {nn.BatchNorm1d}


def test_the_example_runs() -> None:
    example = Path(__file__).parents[2] / "examples" / "crossq_torch.py"
    done = subprocess.run(
        [sys.executable, example, "--steps", "500"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    error = float(done.stdout.split("error")[-1].split()[0])
    assert error < 0.5, done.stdout


def test_renorm_in_a_checkpoint_of_a_compiled_program_is_left_to_python() -> None:
    """The compiler would run it again on averages that have moved, and return 0.16865."""
    layer = bt.BatchNorm1d(1, renorm=True)

    def run(x: Any) -> Any:
        return checkpoint(layer, x, use_reentrant=False)

    x = torch.tensor([[0.0], [20.0], [10.0], [14.0]], requires_grad=True)
    torch.compile(run, backend="aot_eager")(x)[0].sum().backward()
    assert x.grad is not None
    assert abs(float(x.grad[0]) - 0.17925) < 1e-5
    assert int(layer.num_batches_tracked) == 1
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match="Observed exception"):
        torch.compile(run, backend="aot_eager", fullgraph=True)(x)
