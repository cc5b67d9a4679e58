"""A case's steps by the oracle: what is expected where our package does right what an original does not."""

from dataclasses import replace

import numpy as np

import golden_data
import oracle
import oracle_cases
from originals.inputs import STEPS


def steps(case, variance=None):
    """The four steps in the goldens' form, every option honored. `case` is golden_data's Case.

    `variance` replaces the estimator that the original's path would have stored.
    """
    return [step for step, _ in played(case, variance)]


def scales(case):
    """For each step, the size of the largest term that cancels in each gradient: errors are relative to it."""
    return [
        {name: max(1.0, float(np.max(size, initial=0.0))) for name, size in terms.items() if name != "y"}
        for _, terms in played(case)
    ]


def played(case, variance=None):
    """Each step with the magnitudes of the terms behind its numbers."""
    spec, start = oracle_cases.spec_of(case), golden_data.initial_values(case)
    spec = replace(spec, variance=variance or spec.variance)
    state = oracle.init_state(spec, case.shape, start["moving_mean"], start["moving_variance"])
    parameters = start["gamma"] if spec.with_gamma else None, start["beta"] if spec.with_beta else None
    trains, updates = oracle_cases.frozen_effects(case)
    for t, asked in enumerate(STEPS):
        training = asked and trains
        x = golden_data.input_at(case, t).astype(np.float64)
        dy = golden_data.loss_weights_at(case, t).astype(np.float64)
        extras = (weights_at(case, t), golden_data.adjustment(case)) if training else (None, None)
        if training:
            y, moved = oracle.train_step(spec, state, x, *parameters, *extras)
        else:
            y, moved = oracle.infer(spec, state, x, *parameters), state
        if case.options.get("activation") == "relu":
            dy, y = dy * (y > 0), np.maximum(y, 0)
        arguments = (spec, state, x, *parameters, dy, *extras)
        grads = oracle.gradients(*arguments, training=training)
        terms = oracle.magnitudes(*arguments, training=training)
        step = {"training": asked, "y": y} | {k: grads[k] for k in ("dx", "dgamma", "dbeta") if k in grads}
        state = moved if updates else state
        if asked:
            step["vars"] = oracle_cases.variables_of(state)
        yield step, terms


def weights_at(case, t):
    mask = golden_data.mask_at(case, t)
    return golden_data.batch_weights_at(case, t) if mask is None else mask
