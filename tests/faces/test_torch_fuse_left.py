"""`convert(fuse=True)`: what it leaves apart, with the reason, and what it warns of."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import batchnorm.torch as bt
from faces.fusable import images
from faces.unfusable import LEFT, Block, Both, Named, Pickled, Straight

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """A kink that rounding puts on either side would be met by chance otherwise."""
    torch.manual_seed(0)


def fused(model: nn.Module, warns: str | None) -> nn.Module:
    if warns is None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return bt.convert(model, fuse=True)
    with pytest.warns(UserWarning, match="convert left") as caught:
        bt.convert(model, fuse=True)
    (warning,) = caught
    assert warning.filename == __file__
    text = str(warning.message)
    assert text.startswith("convert left 1 of the model's batch norms apart from what follows them. ")
    assert warns in text
    return model


@pytest.mark.parametrize("make", LEFT, ids=lambda make: getattr(make, "__name__", ""))
def test_left_apart(make: Any) -> None:
    reason, warned = LEFT[make]
    torch.manual_seed(0)
    model = make()
    modes = [each.training for each in model.modules()]
    plain = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bt.convert(plain)
    fused(model, reason if warned else None)
    told = [each for each in bt.joined(model) if each.activation is None]
    assert any(str(each.reason).startswith(reason) for each in told)
    assert any(each.looks_joinable for each in told) is warned
    assert [each.training for each in model.modules()] == modes
    if make is not Both:
        assert [type(each) for each in model.modules()] == [type(each) for each in plain.modules()]
    if make is Pickled:  # and so has other numbers
        return
    for training in (False, True):
        x, results = images(), []
        for each in (model.train(training), plain.train(training)):
            torch.manual_seed(1)
            given = {"scale": 2.0} if make is Named else {}
            results.append(each(x.clone(), **given))
        torch.testing.assert_close(*results)


def test_hooks_are_respected() -> None:
    for make, which in ((Straight, "act"), (Straight, "norm"), (sequence, "0"), (sequence, "1")):
        model = make()
        model.get_submodule(which).register_forward_hook(lambda *_: None)
        says = "it has hooks" if which in ("norm", "0") else "the ReLU behind it has hooks"
        fused(model, says)
        assert all(str(each.reason).startswith(says) for each in bt.joined(model))


def sequence() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())


def test_an_assigned_method_is_left() -> None:
    model = Straight()
    model.forward = lambda x: x  # type: ignore
    fused(model, "Straight: its forward method was assigned to this one object")


def test_what_was_derived_again_cannot_be_taken_apart() -> None:
    model = bt.convert(Straight(), fuse=True)
    model.__class__ = type("Wrapped", (type(model),), {})
    with pytest.warns(UserWarning, match="its class was derived again"):
        bt.convert(model, back=True)
    x = images()
    torch.testing.assert_close(model(x), torch.relu(model.norm(x)))


def test_what_is_not_converted_is_only_said_once() -> None:
    model = nn.Sequential(nn.SyncBatchNorm(3), nn.ReLU())
    with pytest.warns(UserWarning, match="its statistics are those of all processes") as caught:
        bt.convert(model, fuse=True)
    assert len(caught) == 1
    assert bt.joined(model) == ()


def test_before_it_is_asked_for_nothing_is_joined() -> None:
    model = bt.convert(nn.Sequential(Straight(), sequence()))
    assert [each.path for each in bt.joined(model)] == ["0.norm", "1.0"]
    for each in bt.joined(model):
        assert each.activation is None
        assert "would join it" in str(each.reason)
    assert "joined" not in repr(model)


def test_required_arguments_alone_are_followed() -> None:
    class Optional(Block):
        def forward(self, x: Any, z: Any = None, scale: float = 1.0) -> Any:
            y = self.norm(x)
            return self.act(y if z is None else y + z) * scale

    plain = bt.convert(Optional())
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    assert [each.residual for each in bt.joined(model)] == [False]
    for given in ((), (torch.randn(6, 3, 8, 8),), (None, 2.0)):
        torch.testing.assert_close(model(images(), *given), plain(images(), *given))


def test_parameters_and_buffers_are_read_anew() -> None:
    class Reads(Block):
        def forward(self, x: Any) -> Any:
            return self.act(self.norm(x)) * (self.weight * 2.0) + self.norm.running_mean.view(1, -1, 1, 1)

    plain = bt.convert(Reads())
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    assert [each.reason for each in bt.joined(model)] == [None]
    for value in (1.0, 2.0):
        for each in (plain, model):
            nn.init.constant_(each.weight, value)
        torch.testing.assert_close(model(images()), plain(images()))


def test_modes_may_differ_in_what_is_not_joined() -> None:
    class Modes(Block):
        def forward(self, x: Any) -> Any:
            y = self.act(self.norm(x))
            return functional.dropout(y, 0.5, self.training) * (self.scale if self.training else 1.0)

    plain = bt.convert(Modes())
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    assert [each.reason for each in bt.joined(model)] == [None]
    for training in (True, False):
        for scale in (2.0, 3.0):
            plain.scale = model.scale = scale
            results = []
            for each in (plain, model):
                torch.manual_seed(0)
                results.append(each.train(training)(images()))
            torch.testing.assert_close(*results)
