"""How a call is computed, and why: what `batchnorm.explain` reports and `fused=True` requires.

Each framework's engine answers for itself, in its module `dispatch`; this module combines the answers.
"""

from typing import Any, Literal, Protocol

from batchnorm.errors import format_error
from batchnorm.layout import Layout
from batchnorm.options import Options

__all__ = ["Dispatch", "Path", "require_fused", "route_of"]

Array = Any
Path = Literal["native", "mixed", "framework", "composed"]


class Dispatch(Protocol):
    """What an engine says about itself. Each reason is a clause that can follow a colon."""

    def unsupported_reason(
        self, x: Array, weights: Array | None, layout: Layout, synchronized: bool
    ) -> str | None:
        """Why the passes of a training step cannot use the CPU kernels; None if they can."""
        ...

    def slower_reason(self, x: Array) -> str | None:
        """Why they do not use them even so, unless `fused=True` requires it."""
        ...

    def plain_step(self, x: Array, layout: Layout) -> Path | None:
        """What computes a step without weights, renorm and replicas in one call even then; None if nothing does."""
        ...

    def at_inference(self, x: Array, layout: Layout) -> tuple[Path, str | None]:
        """The path of inference, and why that is not the kernels."""
        ...

    def running(self) -> tuple[str | None, int | None]:
        """The instruction set of the kernels, and how many threads may work on one call, if that is known."""
        ...


def route_of(
    dispatch: Dispatch, options: Options, layout: Layout, x: Array, weights: Array | None, training: bool
) -> tuple[Path, str | None]:
    """The path of a call and, unless that is the kernels alone, why.

    "mixed" means that the kernels do not take the weights: they are not used in the two passes that read them.
    """
    if options.fused is False:
        return "composed", "fused=False asks for plain operations"
    if not training:
        return dispatch.at_inference(x, layout)

    def why_not(weights: Array | None) -> str | None:
        why = dispatch.unsupported_reason(x, weights, layout, options.synchronized)
        return dispatch.slower_reason(x) if why is None and not options.fused else why

    why = why_not(weights)
    if why is None:
        return "native", None
    if weights is None and options.renorm is None and not options.synchronized:
        path = dispatch.plain_step(x, layout) or "composed"
        return path, None if path == "native" else why
    return "mixed" if weights is not None and why_not(None) is None else "composed", why


def require_fused(
    dispatch: Dispatch,
    options: Options,
    layout: Layout,
    x: Array,
    weights: Array | None,
    enough: tuple[Path, ...] = ("native",),
) -> None:
    """Raise ValueError if `fused=True` requires kernels that a training step cannot use."""
    if options.fused is not True:
        return
    path, why = route_of(dispatch, options, layout, x, weights, True)
    if path not in enough:
        raise ValueError(
            format_error(
                "fused=True was asked for, and this training step cannot use the CPU kernels",
                f"This is because {why}",
                "Leave `fused` at None, which takes the fastest way there is",
            )
        )
