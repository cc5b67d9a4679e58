"""`convert(fuse=True)`: what is joined, that the numbers stay, and that all of it can be taken apart again."""

import copy
import io
import pickle
import warnings
from typing import Any

import pytest
import torch
from torch import fx, nn

import batchnorm.torch as bt
from batchnorm import Activation
from batchnorm.torch import _join
from faces.fusable import NETWORKS, BasicBlock, BatchNormAct2d, ResNet, images, made

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """A kink that rounding puts on either side would be met by chance otherwise."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


class Calls:
    """Counts the calls of our layers, and those that were given an activation or a residual."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all = self.joined = self.residual = 0
        original = _join.Layer.forward

        def forward(layer, x, weight=None, mask=None, residual=None, activation=None):
            self.all += 1
            self.joined += activation is not None
            self.residual += residual is not None
            return original(layer, x, weight, mask, residual, activation)

        monkeypatch.setattr(_join.Layer, "forward", forward)


def described(model: nn.Module) -> list[Any]:
    return [
        (path, type(each), type(each).forward, each.extra_repr(), sorted(vars(each)))
        for path, each in model.named_modules()
    ]


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_train_and_infer_as_before(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, count, residuals = NETWORKS[name]
    plain = bt.convert(made(name))
    model = copy.deepcopy(plain)
    parts, keys = list(model.modules()), list(model.state_dict())
    assert bt.convert(model, fuse=True) is model
    assert list(model.modules()) == parts
    assert list(model.state_dict()) == keys
    told = [each for each in bt.joined(model) if each.activation is not None]
    assert (len(told), sum(each.residual for each in told)) == (count, residuals)
    assert {each.path for each in bt.joined(model)} == {
        path for path, each in model.named_modules() if isinstance(each, bt._layers.Layer)
    }
    optimizers = [torch.optim.SGD(each.parameters(), 0.01, momentum=0.9) for each in (plain, model)]
    for step in range(5):
        results = []
        for each, optimizer in zip((plain, model), optimizers, strict=True):
            x = images(6, step).requires_grad_()
            y = each(x)
            optimizer.zero_grad()
            y.square().mean().backward()
            optimizer.step()
            results.append((y.detach(), x.grad))
        torch.testing.assert_close(results[1], results[0], rtol=2e-4, atol=2e-4)
    assert_same_state(model, plain)
    torch.testing.assert_close(model.eval()(images()), plain.eval()(images()), rtol=1e-3, atol=1e-3)
    assert torch.isfinite(model(images())).all()
    model.train()
    calls = Calls(monkeypatch)
    model(images())
    assert (calls.joined, calls.residual) == (count, residuals)


def assert_same_state(one: nn.Module, other: nn.Module) -> None:
    for (name, a), (_, b) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3, msg=name)


@pytest.mark.parametrize("name", NETWORKS)
def test_back_restores_everything(name: str) -> None:
    model = made(name)
    before, state = described(model), copy.deepcopy(model.state_dict())
    bt.convert(bt.convert(model, fuse=True), back=True)
    assert described(model) == before
    assert list(model.state_dict()) == list(state)
    bt.convert(model, fuse=True)
    bt.convert(model, fuse=True)
    bt.convert(model, back=True)
    assert described(model) == before
    if name != "timm's BatchNormAct2d":  # whose module is not there to import
        assert described(pickle.loads(pickle.dumps(model))) == before


def test_options_are_those_of_the_layers() -> None:
    """What only our layers can do needs force on the way back, and so does an activation that the user asked for."""
    model = bt.convert(ResNet(), fuse=True, renorm=True, virtual_batch_size=2)
    assert len([each for each in bt.joined(model) if each.activation]) == 9
    plain = bt.convert(ResNet(), renorm=True, virtual_batch_size=2)
    plain.load_state_dict(model.state_dict())
    for seed in range(2):
        torch.testing.assert_close(model(images(6, seed)), plain(images(6, seed)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="force=True"):
        bt.convert(model, back=True)
    assert "joined: bn1 + relu" in repr(model)
    bt.convert(model, back=True, force=True)
    assert "joined" not in repr(model)
    own = nn.Sequential(bt.BatchNorm2d(3, activation="relu"))
    with pytest.raises(ValueError, match=r"activation=.*force=True"):
        bt.convert(own, back=True)
    with pytest.raises(ValueError, match=r"convert\(back=True\) was given fuse=True"):
        bt.convert(model, back=True, fuse=True)
    with pytest.raises(TypeError, match="fuse='relu' was given"):
        bt.convert(model, fuse="relu")  # type: ignore


def test_parts_can_be_used_alone_as_before() -> None:
    """Programs cut models into pieces, and call layers by themselves."""
    plain = bt.convert(nn.Sequential(nn.BatchNorm2d(3), nn.Identity(), nn.GELU(), nn.BatchNorm2d(3)))
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    x = images()
    for cut in (model[:1], model[:2], model[2:], nn.Sequential(*list(model.children())[:3])):
        want = x
        for each in copy.deepcopy(list(cut)):
            want = each(want)
        torch.testing.assert_close(copy.deepcopy(cut)(x), want)
    torch.testing.assert_close(model[0](x), plain[0](x))
    model.append(nn.Sigmoid())
    torch.testing.assert_close(model(x), torch.sigmoid(plain(x)))


def test_what_changes_later_takes_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks, other activations, attributes that a method reads, layers converted back, other shapes and types."""
    torch.manual_seed(0)
    plain = bt.convert(BasicBlock(3, 3))
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    calls, x = Calls(monkeypatch), images()

    def check(joined: int, x: Any = x) -> None:
        before = calls.joined
        torch.testing.assert_close(model(x), plain(x))
        assert calls.joined - before == joined

    check(2)
    seen: list[Any] = []
    handle = model.relu.register_forward_hook(lambda *given: seen.append(given[-1]))
    check(0)
    assert len(seen) == 2
    handle.remove()
    handle = model.bn1.register_forward_hook(lambda *given: seen.append(given[-1].detach().clone()))
    check(1)
    assert float(seen[-1].min()) < 0.0
    handle.remove()
    plain.relu = model.relu = nn.Sigmoid()
    check(2)
    plain.relu = model.relu = nn.Softplus()
    check(0)
    plain.relu = model.relu = nn.ReLU()
    plain.downsample = model.downsample = nn.Conv2d(3, 3, 1)
    check(0)
    plain.downsample = model.downsample = nn.AdaptiveAvgPool2d(1)  # the sum is broadcast
    check(0)
    plain.downsample = model.downsample = None
    check(2)
    check(2, images().double().float())
    bt.convert(model.bn2, back=True)
    check(1)


def test_residuals_of_other_shapes_and_types_are_added_by_pytorch() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x: Any, z: Any) -> Any:
            return torch.relu(z + self.norm(x))

    plain = bt.convert(Scaled())
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    for x, z in (
        (images(), torch.randn(6, 3, 1, 1)),
        (images(1), torch.randn(6, 3, 8, 8)),
        (images(), torch.randn(6, 3, 8, 8).double()),
        (images(), torch.randn(6, 3, 8, 8)),
        (images(), 1.5),
    ):
        found, want = model(x, z), plain(x, z)
        assert found.dtype is want.dtype
        torch.testing.assert_close(found, want)
    torch.testing.assert_close(model(x, z=torch.ones(1)), plain(x, z=torch.ones(1)))


ACTIVATIONS: list[tuple[Any, str]] = [
    (nn.ReLU(), "relu"),
    (nn.ReLU6(), "relu6"),
    (nn.LeakyReLU(0.3), "leaky_relu"),
    (nn.Hardtanh(), "hard_tanh"),
    (nn.Hardtanh(0, 6), "relu6"),
    (nn.Hardswish(), "hard_swish"),
    (nn.SiLU(), "silu"),
    (nn.GELU(), "gelu"),
    (nn.GELU("tanh"), "gelu_tanh"),
    (nn.Sigmoid(), "sigmoid"),
    (nn.Tanh(), "tanh"),
]


@pytest.mark.parametrize(("act", "name"), ACTIVATIONS, ids=str)
def test_every_activation_is_recognized(act: nn.Module, name: str) -> None:
    plain = bt.convert(nn.Sequential(nn.BatchNorm2d(3), act))
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    (told,) = bt.joined(model)
    assert told.activation == Activation(name, 0.3 if name == "leaky_relu" else None)
    x = images() * 3
    torch.testing.assert_close(model(x), plain(x))


@pytest.mark.parametrize("name", ["ResNet of basic blocks", "MobileNetV3", "functions"])
def test_copies_pickles_and_checkpoints(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = bt.convert(made(name), fuse=True)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    replica = model._replicate_for_data_parallel()
    copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False)]
    copies += [copy.deepcopy(copies[1])]
    want, calls = copy.deepcopy(model)(images()), Calls(monkeypatch)
    for each in copies:
        before = calls.joined
        torch.testing.assert_close(each(images()), want)
        assert calls.joined - before == NETWORKS[name][1]
        assert bt.joined(each) == bt.joined(model)
    assert type(replica) is type(model)
    plain = made(name)
    plain.load_state_dict(model.state_dict())
    model.load_state_dict(plain.state_dict())
    torch.testing.assert_close(model.eval()(images()), plain.eval()(images()), rtol=1e-4, atol=1e-4)


def test_timms_layer_takes_in_its_own_activation() -> None:
    plain = bt.convert(nn.Sequential(BatchNormAct2d(3, nn.SiLU)))
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    assert bt.joined(model) == (bt.Join("0", Activation("silu")),)
    x, seen = images(), []
    torch.testing.assert_close(model(x), plain(x))
    torch.testing.assert_close(copy.deepcopy(model)(x), copy.deepcopy(plain)(x))
    model[0].act.register_forward_hook(lambda *given: seen.append(given[-1]))
    torch.testing.assert_close(model(x), plain(x))
    assert len(seen) == 1


def test_tracers_see_the_model_as_it_was() -> None:
    model, plain = bt.convert(ResNet(), fuse=True), bt.convert(ResNet())
    plain.load_state_dict(model.state_dict())
    traced, known = (fx.symbolic_trace(each) for each in (model, plain))
    assert traced.code == known.code
    x = images()
    model.eval(), plain.eval()
    torch.testing.assert_close(traced.eval()(x), plain(x))
    scripted = torch.jit.script(copy.deepcopy(model))
    torch.testing.assert_close(scripted(x), plain(x))
    assert len([each for each in bt.joined(model) if each.activation]) == 9
