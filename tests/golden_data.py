"""Reads the recorded numbers in `goldens/` and regenerates their inputs by the rule of its README.md."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

GOLDENS = Path(__file__).parent / "goldens"
NUMERIC = ("v1_layers", "contrib_batch_norm", "tf_keras", "keras3", "tf1_renorm")
_COLUMNS = ("tf2_behavior", "tf1_15", "tf1_8")


@dataclass(frozen=True)
class Step:
    """What one step of a case gave; `variables` is None after the inference step."""

    training: bool
    y: np.ndarray
    dx: np.ndarray
    dgamma: np.ndarray | None
    dbeta: np.ndarray | None
    variables: Mapping[str, np.ndarray] | None


@dataclass(frozen=True, eq=False)
class Case:
    """One numeric case. `dtype` is the compute dtype, `policy` the Keras policy (None elsewhere).

    `columns` holds what other versions gave: "same", "not supported there", or a mapping with "error"
    or "steps".
    """

    api: str
    id: str
    seed: int
    shape: tuple[int, ...]
    dtype: str
    policy: str | None
    axis: int | tuple[int, ...]
    options: Mapping[str, Any]
    init: str
    train_kind: str
    expect: Mapping[str, Any] = field(repr=False)
    columns: Mapping[str, Any] = field(repr=False)
    xscale: float = 2.0
    xoffset: float = 1.0

    @property
    def axes(self) -> tuple[int, ...]:
        """The kept axes, counted from the front and ascending."""
        given = (self.axis,) if isinstance(self.axis, int) else self.axis
        return tuple(sorted(a % len(self.shape) for a in given))

    @property
    def variables(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of each variable by the last part of its name, in order of creation."""
        listed = self.expect["variables"]
        return {name.rsplit("/", 1)[-1]: (tuple(shape), dtype) for name, shape, dtype in listed}

    def steps(self, column: str | None = None) -> tuple[Step, ...]:
        """The recorded steps of this case, or those of another version's column where it has its own."""
        record = self.expect if column is None else self.columns[column]
        return tuple(self._step(raw) for raw in record["steps"])

    def _step(self, raw: Mapping[str, Any]) -> Step:
        def parameter(name: str) -> np.ndarray | None:
            return numbers(raw[name]) if name in raw else None

        return Step(
            training=raw["training"],
            y=numbers(raw["y"]).reshape(self.shape),
            dx=numbers(raw["dx"]).reshape(self.shape),
            dgamma=parameter("dgamma"),
            dbeta=parameter("dbeta"),
            variables={k: numbers(v) for k, v in raw["vars"].items()} if "vars" in raw else None,
        )


def numbers(values: Any) -> np.ndarray:
    """A flat float64 array of recorded numbers, "nan" and "inf" included."""
    return np.array([float(v) for v in np.atleast_1d(np.array(values, dtype=object))], np.float64)


@functools.cache
def raw(name: str) -> dict[str, Any]:
    """The parsed file of that name, numeric or not. Shared: do not change it."""
    with gzip.open(GOLDENS / f"{name}.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


@functools.cache
def load(name: str) -> list[Case]:
    """The cases of one of the NUMERIC files."""
    return [_case(name, record) for record in raw(name)["cases"]]


def _case(api: str, record: dict[str, Any]) -> Case:
    policy = record.get("policy")
    # contrib names its channel axis by the data format
    axis = record.get("axis", 1 if record["options"].get("data_format") == "NCHW" else -1)
    return Case(
        api=api,
        id=record["id"],
        seed=record["seed"],
        shape=tuple(record["shape"]),
        dtype=policy.removeprefix("mixed_") if policy else record["dtype"],
        policy=policy,
        axis=tuple(axis) if isinstance(axis, list) else axis,
        options=record["options"],
        init=record["init"],
        train_kind=record["train_kind"],
        expect=record["expect"],
        columns={column: record[column] for column in _COLUMNS if column in record},
        xscale=record.get("xscale", 2.0),
        xoffset=record.get("xoffset", 1.0),
    )


def numpy_dtype(name: str) -> np.dtype:
    return np.dtype(ml_dtypes.bfloat16) if name == "bfloat16" else np.dtype(name)


def input_at(case: Case, t: int) -> np.ndarray:
    """x of step t."""
    x = _random(case, t).standard_normal(case.shape) * case.xscale + case.xoffset
    return x.astype(numpy_dtype(case.dtype))


def loss_weights_at(case: Case, t: int) -> np.ndarray:
    """w of step t; the loss is sum(w * y), so w is the gradient that arrives at y."""
    return _random(case, 40 + t).standard_normal(case.shape).astype(numpy_dtype(case.dtype))


def initial_values(case: Case) -> dict[str, np.ndarray]:
    """gamma, beta and the moving statistics before the first step, in float64 and the parameters' shape."""
    shape, _ = case.variables["moving_mean"]
    if case.init == "default":
        ones, zeros = np.ones(shape), np.zeros(shape)
        return {"gamma": ones, "beta": zeros, "moving_mean": zeros, "moving_variance": ones}
    n = int(np.prod(shape))
    drawn = {
        "gamma": _random(case, 60).uniform(0.5, 1.5, n),
        "beta": _random(case, 61).standard_normal(n),
        "moving_mean": _random(case, 62).standard_normal(n) * 0.5,
        "moving_variance": _random(case, 63).uniform(0.5, 2.0, n),
    }
    return {name: value.reshape(shape) for name, value in drawn.items()}


def adjustment(case: Case) -> tuple[np.ndarray, np.ndarray] | None:
    """The constants (scale, offset) that the case's adjustment function returns at every step."""
    kind = case.options.get("adjustment")
    if kind is None:
        return None
    rank = len(case.shape)
    shape = {
        "channel": tuple(case.shape[i] if i in case.axes else 1 for i in range(rank)),
        "example": (case.shape[0],) + (1,) * (rank - 1),
        "scalar": (1,) * rank,
    }[kind]
    dtype = "float64" if case.dtype == "float64" else "float32"
    random = _random(case, 70)
    scale = random.uniform(0.7, 1.3, shape)
    offset = random.standard_normal(shape) * 0.2
    return scale.astype(dtype), offset.astype(dtype)


def mask_at(case: Case, t: int) -> np.ndarray | None:
    """The boolean mask of step t, of the input's shape without its last axis."""
    if not case.options.get("mask"):
        return None
    return _random(case, 80 + t).random_sample(case.shape[:-1]) < 0.6


def batch_weights_at(case: Case, t: int) -> np.ndarray | None:
    """The per-example weights of step t, of shape [B]."""
    kind = case.options.get("batch_weights")
    if kind is None:
        return None
    random, batch = _random(case, 90 + t), case.shape[0]
    drawn = random.randint(0, 4, batch) if kind == "int" else random.random_sample(batch)
    return drawn.astype(numpy_dtype(case.dtype))


def _random(case: Case, offset: int) -> np.random.RandomState:
    return np.random.RandomState(100 * case.seed + offset)


def edge_input(record: Mapping[str, Any]) -> np.ndarray:
    """The input of a record of `edge`, the same in its training and its inference call."""
    shape, data = record["shape"], record["data"]
    x = np.random.RandomState(700000).standard_normal(shape) * 2 + 1
    if data == "const":
        x = np.full(shape, 3.0)
    elif data == "big":
        x = x * 1e4
    elif data in ("nan", "inf"):
        x.flat[0] = float(data)
    with np.errstate(over="ignore"):  # "big" reaches float16's infinity on purpose
        return x.astype(numpy_dtype(record["dtype"]))


def distributed_input(record: Mapping[str, Any], replica: int) -> np.ndarray:
    """The input of one replica of a record of `distributed`, the same in both steps."""
    random = np.random.RandomState(800000 + replica)
    x = random.standard_normal(record["shape_per_replica"]) * (2 + replica) + 1 - 2 * replica
    return x.astype("float32")


def tracked_input(rank: int = 2) -> np.ndarray:
    """The input of the records of `tracked_scopes`."""
    seed, shape = {2: (600000, (8, 3)), 4: (600001, (4, 2, 2, 3))}[rank]
    return (np.random.RandomState(seed).standard_normal(shape) * 2 + 1).astype("float32")
