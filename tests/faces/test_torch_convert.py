"""`convert` on more than `torch.nn`'s plain layers: lazy and parametrized ones, subclasses, and what it leaves."""

import copy
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

import batchnorm.torch as bt

pytestmark = pytest.mark.needs("torch")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "renorm": {"renorm": True},
    "axes and ghosts": {"axis": (1, 2), "virtual_batch_size": 2},
}


@pytest.fixture(autouse=True)
def _no_warnings():
    """If no layer is left out, nothing is said."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def images(batch: int = 6) -> Any:
    return torch.randn(batch, 4, 3, 2) * 2 + 1


def assert_same(one: nn.Module, other: nn.Module) -> None:
    for training in (True, True, False):
        x = images()
        torch.testing.assert_close(one.train(training)(x), other.train(training)(x))
        assert list(one.state_dict()) == list(other.state_dict())
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("start", ["input", "torch.nn's state", "our state", "lazy state", "pickle"])
@pytest.mark.parametrize("name", OPTIONS)
def test_lazy_layers_become_ours_with_their_sizes(name: str, start: str) -> None:
    options = OPTIONS[name]
    model = bt.convert(nn.Sequential(nn.LazyBatchNorm2d(momentum=0.2, eps=1e-3)), **options)
    known = nn.Sequential(bt.BatchNorm2d(12 if "axis" in options else 4, 1e-3, 0.2, **options))
    if start == "torch.nn's state":
        state = nn.Sequential(nn.BatchNorm2d(known[0].num_features)).state_dict()
        state["0.running_mean"] += 1.0
        state["0.running_var"] += 1.0
        model.load_state_dict(state), known.load_state_dict(state)
    elif start == "our state":
        known(images())
        model.load_state_dict(known.state_dict())
    elif start == "lazy state":
        model.load_state_dict(bt.convert(nn.Sequential(nn.LazyBatchNorm2d()), **options).state_dict())
    elif start == "pickle":
        model = pickle.loads(pickle.dumps(model))
    assert isinstance(model[0], nn.LazyBatchNorm2d)
    assert_same(model, known)
    assert type(model[0]) is bt.BatchNorm2d
    assert model[0].num_features == known[0].num_features


def test_lazy_layers_go_back() -> None:
    model = bt.convert(nn.Sequential(nn.LazyBatchNorm1d(affine=False), nn.LazyBatchNorm3d()), renorm=True)
    bt.convert(model, back=True, force=True)
    assert [type(layer) for layer in model] == [nn.LazyBatchNorm1d, nn.LazyBatchNorm3d]
    model[0](torch.randn(4, 3))
    assert type(model[0]) is nn.BatchNorm1d
    untracked = bt.convert(nn.LazyBatchNorm1d(track_running_stats=False))
    untracked(torch.randn(4, 3))
    assert type(untracked) is bt.BatchNorm1d
    bare = bt.convert(nn.LazyBatchNorm1d(affine=False, track_running_stats=False))
    bare(torch.randn(4, 3))
    assert (type(bare), bare.num_features) == (bt.BatchNorm1d, 3)


class Double(nn.Module):
    calls = 0

    def forward(self, weight: Any) -> Any:
        self.calls += 1
        return 2 * weight


@pytest.mark.parametrize("name", ["plain", "renorm"])
def test_parametrized_layers_keep_their_parametrization(name: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(4))
    parametrize.register_parametrization(model[0], "weight", Double())
    plain = copy.deepcopy(model)
    bt.convert(model, **OPTIONS[name])
    assert isinstance(model[0], bt.BatchNorm2d)
    doubled = bt.BatchNorm2d(4, **OPTIONS[name])
    nn.init.constant_(doubled.weight, 2.0)
    x = images()
    torch.testing.assert_close(copy.deepcopy(model)(x), doubled(x))
    # One call evaluates it once: a parametrization may have a state.
    model(x)
    calls = model[0].parametrizations.weight[0].calls
    model(x)
    assert model[0].parametrizations.weight[0].calls - calls <= 2
    bt.convert(model, back=True, force=True)
    assert not isinstance(model[0], bt.BatchNorm2d)
    torch.testing.assert_close(model.eval()(x).shape, plain(x).shape)
    bt.convert(model, **OPTIONS[name])
    parametrize.remove_parametrizations(model[0], "weight")
    assert type(model[0]) is bt.BatchNorm2d
    assert float(model[0].weight[0].detach()) == 2.0


class Marked(nn.BatchNorm2d):
    """A subclass that adds something unrelated to the normalization."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.mark = 3


class Relu(Marked):
    def forward(self, x: Any) -> Any:
        return super().forward(x).relu()


class AnyRank(nn.modules.batchnorm._BatchNorm):
    def _check_input_dim(self, x: Any) -> None:
        pass


class Alone(nn.BatchNorm2d):
    def forward(self, x: Any) -> Any:
        return functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training
        )


class Above(Alone):
    """It calls the next class's method, which does not."""

    def forward(self, x: Any) -> Any:
        return super().forward(x) + 1


class BatchNormAct2d(nn.BatchNorm2d):
    """A small version of timm's layer: its own `forward`, then `drop` and `act`."""

    __module__ = "timm.layers.norm_act"

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), nn.ReLU()

    def forward(self, x: Any) -> Any:
        x = functional.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training
        )
        return self.act(self.drop(x))


class FrozenBatchNorm2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))


@pytest.mark.parametrize("name", ["plain", "renorm"])
@pytest.mark.parametrize("cls", [Marked, Relu, AnyRank, BatchNormAct2d], ids=lambda cls: cls.__name__)
def test_subclasses_that_leave_the_normalization_to_torch_nn_get_ours(cls: type, name: str) -> None:
    model = bt.convert(nn.Sequential(cls(4)), **OPTIONS[name])
    layer = model[0]
    known: nn.Module = nn.Sequential(bt.BatchNorm2d(4, **OPTIONS[name]))
    if cls in (Relu, BatchNormAct2d):
        known = nn.Sequential(bt.BatchNorm2d(4, **OPTIONS[name]), nn.ReLU())
    assert isinstance(layer, cls)
    assert getattr(layer, "mark", 3) == 3
    x = images()
    want = known(x)
    copies = [copy.deepcopy(layer)]
    if cls is not BatchNormAct2d:
        copies.append(pickle.loads(pickle.dumps(layer)))
    for each in (layer, *copies):
        torch.testing.assert_close(each(x), want)
        torch.testing.assert_close(each.running_mean, known[0].running_mean)
        assert type(each) is type(layer)
    bt.convert(model, back=True, force=True)
    assert type(layer) is cls
    assert layer.__dict__.keys() == cls(4).__dict__.keys()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_left_is_named_once_with_its_reason() -> None:
    shared = nn.BatchNorm2d(4)
    model = nn.Sequential(
        shared,
        Alone(4),
        nn.ModuleDict({"inner": Alone(4)}),
        Above(4),
        nn.SyncBatchNorm(4),
        FrozenBatchNorm2d(4),
        torch.jit.script(nn.BatchNorm2d(4)),
        bt.BatchNorm2d(4, variance="population"),
        nn.InstanceNorm2d(4, track_running_stats=True),
        nn.GroupNorm(2, 4),
        shared,
    )
    with pytest.warns(UserWarning, match="convert left") as caught:
        assert bt.convert(model, renorm=True) is model
    (warning,) = caught
    assert warning.filename == __file__
    text = str(warning.message)
    assert text.startswith("convert left 7 of the model's layers as they are. ")
    for part in (
        "1 (Alone), 2.inner (Alone): the forward method of Alone normalizes by itself",
        "3 (Above): the forward method of Above",
        "4 (SyncBatchNorm): its statistics are those of all processes",
        "5 (FrozenBatchNorm2d): FrozenBatchNorm2d is no subclass",
        "6 (RecursiveScriptModule): it is compiled by torch.jit",
        "7 (BatchNorm2d): it is one of ours already, with other options than these",
    ):
        assert part in text
    assert type(shared) is bt.BatchNorm2d
    # Without options there is nothing that a layer of ours could lack.
    assert bt.convert(nn.Sequential(bt.BatchNorm2d(4, renorm=True)))[0].settings.renorm

    class Own(bt.BatchNorm2d):
        pass

    with pytest.warns(UserWarning, match="Own is a subclass of ours") as caught:
        bt.convert(nn.Sequential(Own(4)), back=True)
    assert caught[0].filename == __file__


def test_layers_inside_wrappers_are_found() -> None:
    torch._dynamo.reset()
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    compiled = torch.compile(model, backend="aot_eager")
    x = images()
    compiled(x)
    bt.convert(compiled, variance="population")
    assert type(model[1]) is bt.BatchNorm2d
    other = copy.deepcopy(model)
    torch.testing.assert_close(compiled(x), other(x))
    torch.testing.assert_close(model[1].running_var, other[1].running_var)
    traced = bt.convert(torch.fx.symbolic_trace(nn.Sequential(nn.BatchNorm2d(4))), renorm=True)
    assert type(traced.get_submodule("0")) is bt.BatchNorm2d
    traced(x)


def test_arguments_of_another_kind_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"convert was given a str.*Pass a torch.nn.Module"):
        bt.convert("model")  # type: ignore
    model = nn.Sequential(nn.BatchNorm1d(3))
    with pytest.raises(
        TypeError, match=r"convert was given virtual_batchsize=3, momentum=0.3.*virtual_batch_size"
    ):
        bt.convert(model, virtual_batchsize=3, momentum=0.3)
    assert type(model[0]) is nn.BatchNorm1d
    for name in ("renorm", "zero_debias", "fused"):
        with pytest.raises(TypeError, match=f"{name}='no' was given"):
            bt.BatchNorm1d(3, **{name: "no"})
    with pytest.raises(TypeError, match=r"A mask of type list was given.*torch.as_tensor"):
        bt.BatchNorm1d(3)(torch.ones(2, 3), mask=[True, False])
