"""The gradient of one training step.

With g = ∂L/∂y, h = γ·r·g, x̂ = (x − μ)·s, s = 1/√(σ² + ε) and p_i = w_i / Σw, per group and channel:

    ∂L/∂x_i = s·( h_i − p_i·Σh − p_i·x̂_i·Σh·x̂ )
            = (γ·r·s)·g_i + w_i·( tilt·(x_i − μ) + offset )
      offset = −γ·r·s·Σg / W              tilt = −γ·r·s·s²·Σg·(x − μ) / W
    ∂L/∂γ   = Σ g·(r·x̂ + d)               ∂L/∂β = Σ g
    ∂L/∂w_i = Σ offset·(x_i − μ) + ½·tilt·((x_i − μ)² − σ²)

The first line is the chain rule through x̂ = (x − μ)·s with ∂μ/∂x_i = p_i and ∂σ²/∂x_i = 2·p_i·(x_i − μ): the mean's
own share in σ² drops out because Σp·(x − μ) = 0. The last follows likewise from ∂μ/∂w_i = (x_i − μ)/W and
∂σ²/∂w_i = ((x_i − μ)² − σ²)/W. r and d are constants (Ioffe 2017), and so are the moving averages.
Over several replicas the two sums in offset and tilt run over all of them, while γ's and β's gradients stay local:
data-parallel training adds those up itself.
"""

from batchnorm._core.affine import invert_deviation
from batchnorm._engines.protocol import A, Engine, Gradients, GradTerms, Inputs, Ops, Saved
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["pull"]


def pull(
    engine: Engine[A], options: Options, layout: Layout, inputs: Inputs[A], saved: Saved[A], dy: A
) -> Gradients[A]:
    """Gradients with respect to x, gamma, beta and the weights, from that with respect to y."""
    ops = engine.ops
    if inputs.weights is None and not options.synchronized and options.fused is not False:
        done = engine.fused_gradients(dy, inputs.x, saved, options.epsilon, layout)
        if done is not None:
            dx, dy_sum, dy_xhat_sum = done
            return Gradients(dx, *_parameters(ops, inputs, saved, dy_sum, dy_xhat_sum), None)

    dy_sum, dy_centered_sum = engine.grad_sums(dy, inputs.x, saved.mean, layout)
    inverse = invert_deviation(ops, options.epsilon, saved.variance)
    parameters = _parameters(ops, inputs, saved, dy_sum, dy_centered_sum * inverse)
    if options.synchronized:
        dy_sum, dy_centered_sum = engine.sum_over_replicas((dy_sum, dy_centered_sum))
    pulled = saved.scale * _share(ops, saved.total)
    terms = GradTerms(saved.scale, -pulled * inverse * inverse * dy_centered_sum, -pulled * dy_sum)
    dx = engine.grad_input(dy, inputs.x, inputs.weights, saved.mean, terms, layout)
    if inputs.weights is None:
        return Gradients(dx, *parameters, None)
    dw = engine.grad_weights(inputs.x, inputs.weights, saved.mean, saved.variance, terms, layout)
    return Gradients(dx, *parameters, dw)


def _parameters(
    ops: Ops[A], inputs: Inputs[A], saved: Saved[A], dy_sum: A, dy_xhat_sum: A
) -> tuple[A | None, A | None]:
    dgamma = dbeta = None
    if inputs.gamma is not None:
        per_group = dy_xhat_sum if saved.r is None else saved.r * dy_xhat_sum
        dgamma = ops.sum(per_group if saved.d is None else per_group + saved.d * dy_sum, (0,))
    if inputs.beta is not None:
        dbeta = ops.sum(dy_sum, (0,))
    return dgamma, dbeta


def _share(ops: Ops[A], total: A | float) -> A | float:
    """1 / Σw, and 0 where there was no weight: the statistics were then the moving ones, which are constants."""
    if isinstance(total, (int, float)):
        return 1.0 / total if total > 0.0 else 0.0
    return ops.where(total > 0.0, 1.0 / ops.where(total > 0.0, total, 1.0), 0.0)
