"""The oracle's activations: value and derivative, each by its textbook formula in float64."""

from __future__ import annotations

import math

import numpy as np

Array = np.ndarray

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(u: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * u))


def _normal(u: Array) -> tuple[Array, Array]:
    """The standard normal distribution: its distribution function and its density."""
    return 0.5 * (1.0 + _erf(u / math.sqrt(2.0))), np.exp(-0.5 * u * u) / math.sqrt(2.0 * math.pi)


def _gelu_tanh(u: Array) -> tuple[Array, Array]:
    root = math.sqrt(2.0 / math.pi)
    t = np.tanh(root * (u + 0.044715 * u**3))
    return 0.5 * u * (1.0 + t), 0.5 * (1.0 + t) + 0.5 * u * (1.0 - t * t) * root * (1.0 + 0.134145 * u * u)


def activation(name: str | None, slope: float, u: Array) -> tuple[Array, Array]:
    """act(u) and act'(u); without a name u and 1. At a kink the derivative is the flat side's, or the slope."""
    ones = np.ones_like(u)
    if name is None:
        return u, ones
    if name in ("relu", "relu6", "hard_tanh"):
        low, high = {"relu": (0.0, math.inf), "relu6": (0.0, 6.0), "hard_tanh": (-1.0, 1.0)}[name]
        return np.clip(u, low, high), ones * ((low < u) & (u < high))
    if name == "leaky_relu":
        return np.where(u > 0, u, slope * u), np.where(u > 0, 1.0, slope)
    if name == "hard_swish":
        rising = np.where(np.abs(u) < 3, (2 * u + 3) / 6, ones * (u >= 3))
        return u * np.clip(u + 3, 0, 6) / 6, rising
    if name in ("sigmoid", "silu"):
        s = _sigmoid(u)
        return (s, s * (1 - s)) if name == "sigmoid" else (u * s, s + u * s * (1 - s))
    if name == "tanh":
        return np.tanh(u), 1 - np.tanh(u) ** 2
    if name == "gelu":
        below, density = _normal(u)
        return u * below, below + u * density
    if name == "gelu_tanh":
        return _gelu_tanh(u)
    raise ValueError(f"activation {name!r} is none that the oracle knows")
