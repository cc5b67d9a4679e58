"""What `convert(fuse=True)` leaves apart: modules, each with the reason, and whether it is warned of."""

import random
from typing import Any

import torch
from torch import nn
from torch.nn import functional

import batchnorm.torch as bt

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


class UsedLater(Block):
    def forward(self, x: Any) -> Any:
        z = self.conv(x)
        y = self.act(self.norm(x) + z)
        return y + z.mul_(2.0)


class SequencesInTurn(Block):
    """Random numbers are drawn in the order of the calls."""

    def __init__(self) -> None:
        norm = nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3))
        super().__init__(norm=norm, drop=nn.Sequential(nn.Dropout()))

    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        y += self.drop(x)
        return self.act(y)


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
    UsedLater: ("what is added to it is used again afterwards, and might be changed", True),
    SequencesInTurn: ("no activation that can be joined follows it, but the end of the module", False),
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
