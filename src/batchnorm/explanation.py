"""Which way a call of `batch_norm` goes: the CPU kernels, the framework's own kernel, or plain operations."""

from dataclasses import dataclass
from typing import Any, Literal

from batchnorm._call import check_floating, check_training, spread_weights
from batchnorm._engines.lookup import framework_of
from batchnorm._engines.ways import way_of
from batchnorm.layout import plan_layout
from batchnorm.options import Options

__all__ = ["Explanation", "explain"]

Array = Any

SENTENCES = {
    "native": "our CPU kernels",
    "mixed": "our CPU kernels, but for the passes that read the weights",
    "framework": "{engine}'s own kernel",
    "composed": "plain operations of {engine}",
    "refused": "nothing, for fused=True is refused",
}


@dataclass(frozen=True)
class Explanation:
    """Which way a call goes; `str` tells it in a line or two.

    Attributes:
        engine: whose arrays they are: "NumPy", "TensorFlow", "PyTorch" or "JAX".
        path: "native", the CPU kernels of this package; "mixed", the same but for the passes that read the weights;
            "framework", the framework's own kernel for batch normalization; "composed", its plain operations, some of
            which it may join or compile; "refused", where `fused=True` asks for kernels that cannot go there.
        why: why it is not "native"; None where it is.
        instructions: the kernels' instruction set, such as "avx2"; None where no kernel runs.
        threads: how many threads may work on one call of a kernel; None where no kernel runs, and where that is not
            known: under `torch.compile`, and of JAX, where they are as many as XLA has.

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
    """Which way `batch_norm(x, ..., options, training=training, weights=weights)` goes, here and now.

    Nothing is computed. Inside `tf.function`, `torch.compile` and other transformations the answer is that for what is
    being built there. What JAX's `vmap` and `export`, or XLA on a finished `tf.function`, make of it later cannot be
    known by then, and is plain operations. The gradient goes the same way, unless it is differentiated once more:
    higher derivatives are those of plain operations. Parameters and state are taken to be of the kind of x.

    The classes of this package share the engines, with one exception: PyTorch's layers without options take PyTorch's
    own kernel with `momentum=None`, and for inputs on which it is as quick: of less than 196,608 numbers, or 1,048,576
    where the channels lie last in memory.

    Args:
        x: the input.
        options: what is asked.
        weights: those of the call, or None.
        training: whether the batch's statistics normalize.

    Returns:
        An `Explanation`; `print` shows it in a line or two.

    Raises:
        TypeError: x is not a floating array of a known framework, or `training` is not a bool.
        ValueError: weights or ghost batches do not fit x and the options.

    Examples:
        >>> import numpy as np
        >>> from batchnorm import Options, explain
        >>> print(explain(np.ones((8, 3)), Options(fused=False)))
        NumPy: plain operations of NumPy
        why not the kernels: fused=False asks for plain operations
    """
    framework = framework_of(x, "An input x")
    ops = framework.engine.ops
    check_floating(ops, x)
    check_training(training)
    ghost = options.ghost if training else None
    layout = plan_layout(ops.shape(x), options.axes, ghost, cached=not framework.is_compiling())
    spread = spread_weights(framework, ops, x, weights) if training else None
    path, why = way_of(framework.ways, options, layout, x, spread, training)
    if training and options.fused is True and path != "native":
        return Explanation(framework.title, "refused", why)
    if path not in ("native", "mixed"):
        return Explanation(framework.title, path, why)
    return Explanation(framework.title, path, why, *framework.ways.running())
