"""How a call of `batch_norm` is computed: by the CPU kernels, the framework's own kernel, or plain operations."""

from dataclasses import dataclass
from typing import Any, Literal

from batchnorm._engines.dispatch import route_of
from batchnorm._engines.lookup import framework_of
from batchnorm._validation import check_floating, check_options, check_training, spread_weights
from batchnorm.layout import plan_layout
from batchnorm.options import Options

__all__ = ["Explanation", "explain"]

Array = Any

SENTENCES = {
    "native": "our CPU kernels",
    "mixed": "our CPU kernels, except in the passes that read the weights",
    "framework": "{engine}'s own kernel",
    "composed": "plain operations of {engine}",
    "refused": "refused: fused=True cannot be honored here",
}


@dataclass(frozen=True)
class Explanation:
    """How a call is computed; `str` says it in a line or two.

    Attributes:
        engine: whose arrays they are: "NumPy", "TensorFlow", "PyTorch" or "JAX".
        path: "native", the CPU kernels of this package; "mixed", the same except in the passes that read the weights;
            "framework", the framework's own kernel for batch normalization; "composed", its plain operations, some of
            which it may fuse or compile; "refused" if `fused=True` asks for kernels that cannot be used.
        why: why it is not "native"; None if it is.
        instructions: the kernels' instruction set, such as "avx2"; None if no kernel runs.
        threads: how many threads may work on one call of a kernel; None if no kernel runs or the number is not
            known, as under `torch.compile` and in JAX, where XLA decides it.

    Examples:
        >>> from batchnorm import Explanation
        >>> print(Explanation("NumPy", "native", instructions="avx2", threads=2))
        NumPy: our CPU kernels (avx2, threads: 2)
    """

    engine: str
    path: Literal["native", "mixed", "framework", "composed", "refused"]
    why: str | None = None
    instructions: str | None = None
    threads: int | None = None

    def __str__(self) -> str:
        text = f"{self.engine}: {SENTENCES[self.path].format(engine=self.engine)}"
        if self.instructions is not None:
            text += f" ({self.instructions}"
            text += ")" if self.threads is None else f", threads: {self.threads})"
        return text if self.why is None else f"{text}\nwhy not the kernels: {self.why}"


def explain(
    x: Array, options: Options, *, weights: Array | None = None, training: bool = True
) -> Explanation:
    """How `batch_norm(x, ..., options, training=training, weights=weights)` would be computed, here and now.

    Nothing is computed. Inside `tf.function`, `torch.compile` and other transformations, the answer describes what is
    being built there. It cannot foresee a later `vmap` or `export` in JAX, or XLA compiling a finished `tf.function`:
    these use plain operations. The gradient takes the same path; higher derivatives always use plain operations.
    Parameters and state are assumed to belong to the framework of x.

    The layers of this package share the engines, with one exception: PyTorch's layers without options use PyTorch's
    own kernel with `momentum=None`, in compiled programs, and on inputs where it is as fast: those of fewer than
    196,608 numbers, or of 1,048,576 if the channels are last in memory and no activation follows.

    Args:
        x: the input.
        options: the options of the call.
        weights: the weights of the call, or None.
        training: whether the batch's statistics normalize.

    Returns:
        An `Explanation`; `print` shows it in a line or two.

    Raises:
        TypeError: x is not a floating array of a known framework, or `training` is not a bool.
        ValueError: weights or ghost batches do not fit x and the options, or a weight is negative or NaN.

    Examples:
        >>> import numpy as np
        >>> from batchnorm import Options, explain
        >>> print(explain(np.ones((8, 3)), Options(fused=False)))
        NumPy: plain operations of NumPy
        why not the kernels: fused=False asks for plain operations
    """
    check_options(options)
    framework = framework_of(x, "An input x")
    ops = framework.engine.ops
    check_floating(ops, x)
    check_training(training)
    ghost = options.ghost if training else None
    layout = plan_layout(ops.shape(x), options.axes, ghost, cached=not framework.is_compiling())
    spread = spread_weights(framework, ops, x, weights) if training else None
    path, why = route_of(framework.dispatch, options, layout, x, spread, training)
    if training and options.fused is True and path != "native":
        return Explanation(framework.title, "refused", why)
    if path not in ("native", "mixed"):
        return Explanation(framework.title, path, why)
    return Explanation(framework.title, path, why, *framework.dispatch.running())
