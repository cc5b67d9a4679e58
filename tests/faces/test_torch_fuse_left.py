"""`convert(fuse=True)`: what it leaves apart, with the reason, and what it warns of."""

import copy
import random
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import batchnorm.torch as bt
from faces.fusable import images

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

COUNTS = [0]


class Block(nn.Module):
    """A batch norm, and what a forward method may do with it."""

    def __init__(self, **others: Any) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.drop, self.scale, self.sizes, self.weight = nn.Dropout(), 2.0, [1.0], nn.Parameter(torch.ones(1))
        for name, value in others.items():
            setattr(self, name, value)


class Dropped(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.drop(self.norm(x)))


class Twice(Block):
    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        return self.act(y) + y


class SumTwice(Block):
    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        y += x
        return self.act(y) * y


class NoActivation(Block):
    def forward(self, x: Any) -> Any:
        return self.norm(x) + x


class Softplus(Block):
    def forward(self, x: Any) -> Any:
        return functional.softplus(self.norm(x))


class Plus(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x) + 1.0)


class Doubled(Block):
    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        return self.act(y + y)


class Both(Block):
    """The layer that is called last takes the other's result as its residual."""

    def __init__(self) -> None:
        super().__init__(other=nn.BatchNorm2d(3))

    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x) + self.other(x))


class Unused(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.conv(x))


class IntoOther(Block):
    def forward(self, x: Any) -> Any:
        z = self.conv(x)
        z += self.norm(x)
        return self.act(z)


class Masked(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x, mask=x[:, 0, 0, 0] > 0))


class Overwritten(Block):
    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        return self.act(y + self.conv(x.mul_(2.0)))


class ReadBetween(Block):
    def forward(self, x: Any) -> Any:
        y = self.norm(self.conv(x))
        z = x * self.norm.running_mean.view(1, -1, 1, 1)
        return self.act(y + z)


class CalledBetween(Block):
    def forward(self, x: Any) -> Any:
        y = self.norm(self.conv(x))
        z = self.conv(self.norm(x))
        return self.act(y + z)


class ByShape(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x)) if x.shape[0] > 2 else x


class ByMode(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x)) if self.training else self.norm(x)


class ByType(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x if isinstance(x, torch.Tensor) else torch.cat(x)))


class Keywords(Block):
    def forward(self, x: Any, **rest: Any) -> Any:
        return self.act(self.norm(x))


class Named(Block):
    def forward(self, x: Any, *, scale: Any) -> Any:
        return self.act(self.norm(x)) * scale


class Lists(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x)) * self.sizes[0]


class Assigns(Block):
    def forward(self, x: Any) -> Any:
        self.last = self.act(self.norm(x))
        return self.last


class Draws(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x)) if torch.rand(()) < 2.0 else x


class Random(Block):
    def helper(self) -> bool:
        return random.random() < 2.0

    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x)) if self.helper() else x


class NoGradient(Block):
    def forward(self, x: Any) -> Any:
        with torch.no_grad():
            x = self.conv(x)
        return self.act(self.norm(x))


class Decorated(Block):
    @torch.no_grad()
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x))


class Global(Block):
    def forward(self, x: Any) -> Any:
        global COUNTS
        COUNTS = [1]
        return self.act(self.norm(x))


class MadeInside(Block):
    def forward(self, x: Any) -> Any:
        return nn.ReLU()(self.norm(x))


class Pickled(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x))

    def __reduce__(self) -> Any:
        return Pickled, ()


class Straight(Block):
    def forward(self, x: Any) -> Any:
        return self.act(self.norm(x))


class Squared(nn.ReLU):
    def forward(self, input: Any) -> Any:
        return super().forward(input).square()


class Louder(nn.BatchNorm2d):
    def forward(self, input: Any) -> Any:
        return super().forward(input) * 2.0


# Each with the reason, and whether it is warned of.
LEFT: dict[Any, tuple[str, bool]] = {
    Dropped: ("no activation that can be joined follows it, but Dropout", False),
    Twice: ("its result is used 2 times", False),
    SumTwice: ("the sum is used 2 times", False),
    NoActivation: ("no activation that can be joined follows the addition, but the end of the method", False),
    Softplus: ("no activation that can be joined follows it, but softplus", False),
    Plus: ("what is added to it is not another tensor", False),
    Doubled: ("what is added to it is not another tensor", False),
    Both: ("its result is the residual of another batch norm", False),
    Unused: ("the forward method of Unused does not call it", False),
    IntoOther: ("it is added in place to another tensor", True),
    Masked: ("it is called with more than its input", True),
    Overwritten: ("its input is used again before the addition, and might be changed", True),
    ReadBetween: ("its parameters or statistics are read before the addition", True),
    CalledBetween: ("it is called again before the addition", True),
    ByShape: ("ByShape: torch.fx cannot follow its forward method (symbolically traced variables", True),
    ByMode: ("ByMode: its forward method does not follow in training and in evaluation alike", True),
    ByType: ("ByType: its forward method asks for the types of its arguments", True),
    Keywords: ("Keywords: its forward method takes any number of arguments", True),
    Named: ("Named: its forward method must be given scale by name", True),
    Lists: ("Lists: its forward method reads self.sizes, a list that may change", True),
    Assigns: ("Assigns: its forward method assigns self.last", True),
    Draws: ("Draws: its forward method calls rand on something other than its arguments", True),
    Random: ("Random: its forward method uses random", True),
    NoGradient: ("NoGradient: its forward method has a with block", True),
    Decorated: ("Decorated: its forward method has a with block", True),
    Global: ("Global: its forward method assigns a global variable", True),
    MadeInside: ("MadeInside: torch.fx cannot follow its forward method (module is not installed", True),
    Pickled: ("Pickled: it has a way of its own of being copied and pickled", True),
    lambda: Straight(act=Squared()): ("Squared is a subclass of an activation, and may be another", True),
    lambda: Straight(norm=Louder(3)): ("the forward method of Louder takes no activation", True),
    lambda: Straight(norm=bt.BatchNorm2d(3, activation="relu")): (
        "it has an activation of its own",
        False,
    ),
    lambda: nn.Sequential(nn.BatchNorm2d(3), Squared()): (
        "Squared is a subclass of an activation, and may be another",
        True,
    ),
    lambda: nn.Sequential(Louder(3), nn.ReLU()): ("the forward method of Louder takes no activation", True),
    lambda: nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.ReLU()): (
        "no activation that can be joined follows it, but Dropout",
        False,
    ),
    lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)): (
        "no activation that can be joined follows it, but the end of the module",
        False,
    ),
    lambda: nn.Sequential(bt.BatchNorm2d(3, activation="relu"), nn.ReLU()): (
        "it has an activation of its own",
        False,
    ),
}


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
