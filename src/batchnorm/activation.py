"""Activations that follow a batch normalization in the same pass: which there are, and how they are asked for."""

from dataclasses import dataclass

from batchnorm.errors import format_error

__all__ = ["ACTIVATIONS", "Activation", "read_activation"]

ACTIVATIONS = (
    "identity",
    "relu",
    "relu6",
    "leaky_relu",
    "hard_tanh",
    "hard_swish",
    "silu",
    "gelu",
    "gelu_tanh",
    "sigmoid",
    "tanh",
)


@dataclass(frozen=True)
class Activation:
    """An activation behind the normalization: y = act(u).

    | name | act(u) |
    |---|---|
    | identity | u |
    | relu | max(u, 0) |
    | relu6 | min(max(u, 0), 6) |
    | leaky_relu | u if u > 0, else slope·u |
    | hard_tanh | min(max(u, −1), 1) |
    | hard_swish | u·min(max(u + 3, 0), 6) / 6 |
    | silu | u·σ(u), σ(u) = 1 / (1 + e⁻ᵘ) |
    | gelu | u·Φ(u), Φ the distribution function of the standard normal distribution |
    | gelu_tanh | ½·u·(1 + tanh(√(2/π)·(u + 0.044715·u³))) |
    | sigmoid | σ(u) |
    | tanh | tanh(u) |

    At a kink the derivative is that of the flat side, and of leaky_relu the slope.

    Attributes:
        name: one of the names above.
        slope: of leaky_relu for negative numbers; 0.01 unless given, as in PyTorch and JAX (TensorFlow and Keras
            take 0.2). The others have none.

    Raises:
        ValueError: there is no such activation, or one without a slope was given one.
        TypeError: the slope is not a number.

    Examples:
        >>> from batchnorm import Activation, Options
        >>> Options(activation=Activation("leaky_relu", 0.2)).activation
        Activation(name='leaky_relu', slope=0.2)
        >>> Options(activation="relu").activation
        Activation(name='relu', slope=0.0)
    """

    name: str
    slope: float | None = None

    def __post_init__(self) -> None:
        if self.name not in ACTIVATIONS:
            raise ValueError(
                format_error(
                    f"Activation({self.name!r}) was asked for",
                    "There is no such activation",
                    f"Pass one of {', '.join(map(repr, ACTIVATIONS))}",
                )
            )
        leaky = self.name == "leaky_relu"
        if self.slope is not None and not leaky and self.slope != 0.0:
            raise ValueError(
                format_error(
                    f"Activation({self.name!r}, slope={self.slope!r}) was asked for",
                    "Only leaky_relu has a slope",
                    "Leave the slope out, or pass 'leaky_relu'",
                )
            )
        if self.slope is not None and not _is_number(self.slope):
            raise TypeError(
                format_error(
                    f"Activation({self.name!r}, slope={self.slope!r}) was asked for",
                    "The slope is a constant of the network, so it must be a number",
                    "Pass a number such as 0.2",
                )
            )
        default = 0.01 if leaky else 0.0
        object.__setattr__(self, "slope", default if self.slope is None else float(self.slope))


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_activation(asked: str, value: object) -> Activation | None:
    """An activation given by name or as a record; None if there is none to apply.

    Args:
        asked: the argument, as in "activation=%r".
        value: its value.

    Raises:
        TypeError: the value is neither a name nor a record.
        ValueError: there is no activation of that name.
    """
    if isinstance(value, str):
        if value not in ACTIVATIONS:
            raise ValueError(
                format_error(
                    f"{asked % (value,)} was asked for",
                    "There is no such activation",
                    f"Pass one of {', '.join(map(repr, ACTIVATIONS))}",
                )
            )
        value = Activation(value)
    if value is not None and not isinstance(value, Activation):
        raise TypeError(
            format_error(
                f"{asked % (value,)} was asked for",
                "An activation is given by its name, or as a record if it has a slope",
                f"Pass one of {', '.join(map(repr, ACTIVATIONS))}, or batchnorm.Activation('leaky_relu', 0.2)",
            )
        )
    return None if value is None or value.name == "identity" else value
