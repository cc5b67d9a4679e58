"""How a recorded case reads as an oracle Spec, and every rule by which an original differs from the oracle.

Each rule is a function or a constant here, with its reason; whatever no rule names must agree.
"""

from __future__ import annotations

import numpy as np

import golden_data
from golden_data import Case
from oracle import Spec, State
from tolerances import golden_tolerance

# TensorFlow 1.x raised epsilon to this in its fused kernel.
FUSED_EPSILON_FLOOR_TF1 = 1.001e-5
# Keras 3 adds 1e-7 to the sum of a mask, once in each moment: two such shares of the smallest sum, one.
KERAS3_MASK_TOLERANCE = 2e-7
# The originals subtract two large products, and their synchronized variance is E[x^2] - E[x]^2.
LARGE_MEAN_TOLERANCE = 6e-4
# TensorFlow 1.x normalizes float16 in float16 on its unfused path: relative to the products that y subtracts,
# a few units in the last place are lost there.
TF1_FLOAT16_SHARE = 2e-3


def float32_decay(decay: float) -> float:
    """TensorFlow rounds 1 - decay to float32, also for float64 averages; Keras 3 does not."""
    return 1.0 - float(np.float32(1.0 - decay))


def is_fused(case: Case, column: str | None) -> bool:
    """Whether the original ran its fused kernel; Keras 3 has none."""
    return bool({**case.expect, **(case.columns[column] if column else {})}.get("fused", False))


def spec_of(case: Case, column: str | None = None) -> Spec:
    """The numbers of `column` are another version's; None is the case's own."""
    options, fused = case.options, is_fused(case, column)
    decay = float if case.api == "keras3" else float32_decay
    floor = FUSED_EPSILON_FLOOR_TF1 if column == "tf1_15" and fused else 0.0
    # v1 layers under TensorFlow 2 behavior lose their ghost groups when `training` is a placeholder
    ghosts = None if column == "tf2_behavior" else options.get("virtual_batch_size")
    return Spec(
        axes=case.axes,
        decay=decay(options["decay"] if case.api == "contrib_batch_norm" else options["momentum"]),
        epsilon=max(options["epsilon"], floor),
        with_gamma=options["scale"],
        with_beta=options["center"],
        # the fused kernels alone store the sample variance
        variance="sample" if fused else "population",
        ghost_size=ghosts,
        renorm=options.get("renorm", False),
        renorm_clip=options.get("renorm_clipping"),
        renorm_decay=decay(options.get("renorm_decay", options.get("renorm_momentum", 0.99))),
        debias_mean=options.get("zero_debias_moving_mean", False),
        legacy_renorm=case.api == "tf1_renorm",
    )


def weights_at(case: Case, column: str | None, t: int) -> np.ndarray | None:
    """The mask or the batch weights of step t; the fused kernels ignore a mask."""
    if case.options.get("mask") and not is_fused(case, column):
        return golden_data.mask_at(case, t)
    return golden_data.batch_weights_at(case, t)


def adjustment_of(case: Case) -> tuple[np.ndarray, np.ndarray] | None:
    """contrib honors an adjustment only where it runs the v1 layer itself."""
    own_updates = case.options.get("updates_collections", "update_ops") != "update_ops"
    legacy = own_updates or "batch_weights" in case.options or "zero_debias_moving_mean" in case.options
    return None if legacy else golden_data.adjustment(case)


def frozen_effects(case: Case) -> tuple[bool, bool]:
    """Whether a training step uses the batch's statistics, and whether it moves the averages.

    A frozen Keras layer infers; a frozen v1 layer normalizes by the batch and keeps its averages, and so does
    contrib where it runs that layer, while contrib's own paths move them.
    """
    frozen = case.options.get("trainable") is False
    if case.api in ("tf_keras", "keras3"):
        return not frozen, not frozen
    if case.api == "contrib_batch_norm":
        # without a collection the updates come with y
        collected = case.expect["n_update_ops"] + case.expect["n_custom_updates"] > 0
        return True, collected or case.options["updates_collections"] is None
    return True, not frozen


def tolerances_of(case: Case) -> tuple[float, float]:
    """For y and the gradients, and for the variables."""
    stored = case.variables["moving_mean"][1]
    values, variables = golden_tolerance(case.dtype, stored), golden_tolerance(stored, stored)
    floor = 0.0
    if case.xoffset == 1000 or (case.xoffset == 100 and case.options.get("synchronized")):
        floor = LARGE_MEAN_TOLERANCE
    elif case.api == "keras3" and case.options.get("mask"):
        floor = KERAS3_MASK_TOLERANCE
    return max(values, floor), max(variables, floor)


def value_scale(case: Case, column: str | None, y_terms: np.ndarray) -> float:
    """What errors of y and the gradients are at least relative to, as a multiple of their tolerance."""
    if column == "tf1_15" and case.dtype == "float16" and not is_fused(case, column):
        return TF1_FLOAT16_SHARE / golden_tolerance("float16") * float(y_terms.max())
    return 1.0


def without_weight(case: Case, weights: np.ndarray | None) -> np.ndarray:
    """Which channels have weights that sum to zero, as rank n with 1 off the axes.

    The originals normalize these with mean 0 and variance 0 and let their averages decay: not so the oracle.
    """
    w = np.ones(1) if weights is None else np.asarray(weights, np.float64)
    w = np.broadcast_to(w.reshape(w.shape + (1,) * (len(case.shape) - w.ndim)), case.shape)
    reduced = tuple(i for i in range(len(case.shape)) if i not in case.axes)
    return w.sum(axis=reduced, keepdims=True) == 0


def variables_of(state: State) -> dict[str, np.ndarray]:
    """The state under the originals' names."""
    renamed = {"mean": "moving_mean", "variance": "moving_variance", "stddev": "moving_stddev"}
    return {renamed.get(k, k): np.asarray(v) for k, v in vars(state).items() if v is not None}
