"""Batch normalization in float64 NumPy, straight from the formulas; the tests' independent judge.

It shares nothing with the package. It is slow and plain on purpose: every training step is

    mean, variance   of each channel in each ghost group, weighted by p = w / sum(w)
    x_hat = (x - mean) / sqrt(variance + epsilon)
    y     = act(gamma * (a_s * (r * x_hat + d) + a_b) + beta + z)

where r, d (renorm) and a_s, a_b (adjustment) are 1, 0 when absent, z (the residual) is 0 and act the identity.
What formulas leave open is decided here:

- A batch without elements: y is empty and the state stays as it is.
- Weights that are all zero in a ghost group: the group has no statistics, so its elements are normalized with the
  moving ones (r = 1, d = 0; adjustment, gamma and beta as always) and it counts in no average. A channel that
  alone has no weight in its group is normalized by mean 0 and variance 0, as the originals do, and counts in
  no average either. Where no group has weight, the channel's state stays as it is.
- Population or sample variance is a question of the moving variance only. Under weights the sample variance
  takes (Σw)² / Σw² for N. Renorm always stores the population's; ghost groups store the average of what each
  group would.
- A moving average keeps exactly `decay` of its value: with a decay of 1 it stays, debiased or not.
- NaN and infinity go where arithmetic takes them, also from elements of weight zero: through their own
  channel, never into another.

Arrays per channel (gamma, beta, the state) may have any shape of the right size; results come in the same.
"""

from oracle_forward import infer, init_state, train_step
from oracle_gradients import gradients, magnitudes, numeric_gradients
from oracle_records import Spec, State

__all__ = [
    "Spec",
    "State",
    "gradients",
    "infer",
    "init_state",
    "magnitudes",
    "numeric_gradients",
    "train_step",
]
