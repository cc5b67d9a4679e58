"""Switches: arguments that are either on or off. A text such as "no" would count as on."""

from typing import Any

from batchnorm.errors import format_error

__all__ = ["check_switches"]


def check_switches(**switches: Any) -> None:
    """Raise TypeError for the first that is neither a boolean nor 0 or 1, of any kind; None stands for a default."""
    for name, value in switches.items():
        if isinstance(value, (str, bytes)) or not (value is None or value in (0, 1)):
            raise TypeError(
                format_error(
                    f"{name}={value!r} was given",
                    "It is a switch, which is either on or off",
                    "Pass True or False",
                )
            )
