"""Rebuilding a model with our layer in place of Keras' own, joined with what follows it, and taking it apart again."""

from dataclasses import dataclass, field
from typing import Any

import keras

from batchnorm.errors import format_error, warn_user
from batchnorm.keras._rebuild import Apart, Report, Together
from batchnorm.keras.private import is_functional

__all__ = ["convert"]


def convert(
    model: Any, *, fuse: bool = False, back: bool = False, force: bool = False, verbose: bool = False
) -> Any:
    """A copy of a model in which every `keras.layers.BatchNormalization` is ours and does what follows it as well.

    With `fuse`, a batch norm takes over the layers behind it, and computes

        y = act(γ·(x − μ) / √(σ² + ε) + β + z)

    in one pass: an `Add` of its output and one other tensor z, and an activation layer (`ReLU`, `LeakyReLU`,
    `Activation`) with a function of `batchnorm.Activation`'s table. Nothing else may use the numbers in between, and
    the layers must compute in one dtype. The batch norm keeps its name, and the layers that it took over are gone.

    The copy has the weights of the model and predicts and trains the same numbers up to rounding. It is compiled as the
    model was, with a new optimizer. Layers keep their names, but a batch norm that takes over an addition may change
    places with a neighbor: load files of weights before. Models inside the model are converted too. Layers that look
    like batch normalization but cannot be exchanged (subclasses, and those inside other layers) are copied as they are,
    and one warning names each with the reason.

    Args:
        model: a functional or a sequential model.
        fuse: whether a batch norm takes over what follows it.
        back: from ours to Keras' own, each followed by an `Add` and an activation layer if it has a residual or an
            activation; `fuse` has no effect.
        force: with `back`, convert even layers with options that Keras' own does not have, and drop those options.
        verbose: print what became of each batch norm, and why it took over no more.

    Returns:
        The copy. The model is unchanged.

    Raises:
        TypeError: this is no model.
        ValueError: the model, or one inside it, has a class of its own, so that no copy of it can be made; a layer
            cannot be copied; or going back would lose options.

    Warns:
        UserWarning: layers were left as they are.

    Examples:
        >>> import keras
        >>> from batchnorm.keras import convert
        >>> layers = [keras.Input((4,)), keras.layers.BatchNormalization(name="norm"), keras.layers.ReLU(name="act")]
        >>> joined = convert(keras.Sequential(layers), fuse=True, verbose=True)
        norm: joined with act (relu)
        1 batch norm: 1 joined with an activation, 0 with an addition, 0 with both, 0 with neither
        >>> [(layer.name, layer.activation.__name__) for layer in joined.layers]
        [('norm', 'relu')]
        >>> [layer.name for layer in convert(joined, back=True).layers]
        ['norm', 'norm_relu']
    """
    if not isinstance(model, keras.Model):
        raise TypeError(
            format_error(
                f"convert was given a {type(model).__name__}",
                "It copies a model with other layers",
                "Pass a functional or a sequential keras.Model",
            )
        )
    run = _Run(fuse, back, force)
    made = run.convert(model)
    if verbose:
        print("\n".join(run.told()))
    run.warn()
    return made


@dataclass
class _Run:
    """One call of `convert`, which may have several models to copy, and what it has to tell."""

    fuse: bool
    back: bool
    force: bool
    report: Report = field(default_factory=Report)
    models: dict[int, Any] = field(default_factory=dict)

    def convert(self, model: Any) -> Any:
        """A copy of a model; the same one for a model that is used twice."""
        if id(model) not in self.models:
            if not is_functional(model) and type(model) is not keras.Sequential:
                raise ValueError(
                    format_error(
                        f"convert was given the model {model.name!r} of class {type(model).__name__}",
                        "Such a model is a program, and a copy with other layers would lack it",
                        "Use batchnorm.keras.layers.BatchNormalization in its code, or convert the functional and "
                        "sequential models inside it one by one",
                    )
                )
            copy = (
                Apart(model, self.convert, self.report, self.force)
                if self.back
                else Together(model, self.convert, self.report, self.fuse)
            )
            self.models[id(model)] = copy.make()
        return self.models[id(model)]

    def told(self) -> list[str]:
        """A line for each batch norm, and one that counts them."""
        if self.back:
            return [*self.report.parted, f"{_several(len(self.report.parted), 'batch norm')} taken apart"]
        lines: list[str] = []
        for join in self.report.joins:
            parts = [join.add] if join.add else []
            parts += [f"{join.activation} ({join.function.name})"] if join.function else []
            done = f"joined with {' and '.join(parts)}" if parts else "alone"
            lines.append(f"{join.norm}: {done}{f'; {join.reason}' if join.reason else ''}")
        kinds = [(join.add is not None, join.activation is not None) for join in self.report.joins]
        of = {
            kind: kinds.count(kind) for kind in ((False, True), (True, False), (True, True), (False, False))
        }
        names = ("joined with an activation", "with an addition", "with both", "with neither")
        counts = ", ".join(f"{count} {name}" for count, name in zip(of.values(), names, strict=True))
        return [*lines, f"{_several(len(kinds), 'batch norm')}: {counts}"]

    def warn(self) -> None:
        """Warn once about all layers that were left."""
        if not self.report.left:
            return
        reasons: dict[str, list[str]] = {}
        for layer, reason in self.report.left:
            reasons.setdefault(reason, []).append(f"{layer.name} ({type(layer).__name__})")
        each = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())
        # At the line that called `convert`.
        warn_user(f"convert left {len(self.report.left)} of the model's layers as they are. {each}.")


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
