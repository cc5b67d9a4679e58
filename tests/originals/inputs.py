"""Numeric cases as plain dictionaries (what a worker is sent), and their inputs by the goldens' rule."""

import golden_data
from golden_data import adjustment, batch_weights_at, initial_values, input_at, loss_weights_at, mask_at

__all__ = [
    "STEPS",
    "adjustment",
    "as_case",
    "batch_weights_at",
    "custom_initial_values",
    "input_at",
    "loss_weights_at",
    "mask_at",
    "parameter_shape",
    "record",
]

STEPS = (True, True, True, False)

_FIELDS = ("seed", "shape", "axis", "dtype", "policy", "options", "init", "train_kind", "xscale", "xoffset")


def record(raw):
    """A golden record without its recorded numbers: the case alone."""
    return {k: raw[k] for k in _FIELDS if k in raw}


def as_case(case):
    """The dictionary as golden_data's Case, with the variables' shape that its options imply."""
    axis = case.get("axis", 1 if case["options"].get("data_format") == "NCHW" else -1)
    policy = case.get("policy")
    return golden_data.Case(
        api="",
        id="",
        seed=case["seed"],
        shape=tuple(case["shape"]),
        dtype=policy.removeprefix("mixed_") if policy else case["dtype"],
        policy=policy,
        axis=tuple(axis) if isinstance(axis, (list, tuple)) else axis,
        options=case["options"],
        init=case["init"],
        train_kind=case["train_kind"],
        expect={"variables": [["moving_mean", parameter_shape(case), "float32"]]},
        columns={},
        xscale=case.get("xscale", 2.0),
        xoffset=case.get("xoffset", 1.0),
    )


def parameter_shape(case):
    """The shape of every variable: a vector for one axis, else rank n with ones; ghosts insert a one at 1."""
    shape = case["shape"]
    axis = case.get("axis", 1 if case["options"].get("data_format") == "NCHW" else -1)
    axes = {a % len(shape) for a in (axis if isinstance(axis, (list, tuple)) else [axis])}
    ghosts = case["options"].get("virtual_batch_size") is not None
    if len(axes) == 1 and not ghosts:
        return [shape[a] for a in axes]
    full = [n if i in axes else 1 for i, n in enumerate(shape)]
    return [full[0], 1, *full[1:]] if ghosts else full


def custom_initial_values(case):
    """The initial values by name where the case sets its own, else nothing."""
    return initial_values(as_case(case)) if case["init"] == "custom" else {}
