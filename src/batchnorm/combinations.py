"""Which options go together: one table with an answer for every pair, read by the checks, the tests and the docs.

A pair works unless it is in `REFUSED`. Pairs that work but need a remark on how are in `REMARKS`.
"""

from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from batchnorm.errors import format_error

__all__ = ["FEATURES", "FORMS", "REFUSED", "REMARKS", "Verdict", "check", "features", "table"]

FEATURES = (
    "several axes",
    "renorm",
    "debiased renorm",
    "ghost batches",
    "averages by group",
    "adjustment",
    "weights",
    "zero-debias",
    "sample variance",
    "synchronized",
    "activation",
    "residual",
    "fused",
)


class Verdict(NamedTuple):
    """Whether a pair works, and the reason or the remark that goes with the answer."""

    works: bool
    note: str
    remedy: str = ""


# Two features whose pairing has no meaning: why, and what to ask for instead.
REFUSED: dict[frozenset[str], tuple[str, str]] = {
    frozenset({"renorm", "sample variance"}): (
        "Renorm derives the moving variance from the moving deviation, which is the population's",
        "Use variance='population', or leave renorm out",
    ),
    frozenset({"debiased renorm", "sample variance"}): (
        "Renorm derives the moving variance from the renorm deviation, which is the population's",
        "Use variance='population', or leave renorm out",
    ),
    frozenset({"debiased renorm", "zero-debias"}): (
        "The debiased form of renorm already feeds the moving mean with a debiased average",
        "Use Renorm(form='current'), or leave the zero-debias out",
    ),
    frozenset({"averages by group", "renorm"}): (
        "In a loop over chunks each group is corrected by averages that the previous group has already moved, but "
        "here all groups are normalized at once",
        "Use Ghost(averages='step'), or leave renorm out",
    ),
    frozenset({"averages by group", "debiased renorm"}): (
        "In a loop over chunks each group is corrected by averages that the previous group has already moved, but "
        "here all groups are normalized at once",
        "Use Ghost(averages='step'), or leave renorm out",
    ),
    frozenset({"averages by group", "zero-debias"}): (
        "Zero-debias counts training steps, but each step would move the mean several times",
        "Use Ghost(averages='step'), or leave the zero-debias out",
    ),
}
# Two forms of one feature, not two options to combine.
FORMS = (
    frozenset({"renorm", "debiased renorm"}),
    frozenset({"ghost batches", "averages by group"}),
)

REMARKS: dict[frozenset[str], str] = {
    frozenset({"renorm", "ghost batches"}): "r and d come from the statistics averaged over the groups",
    frozenset(
        {"ghost batches", "weights"}
    ): "weights are regrouped with the examples; groups without any are left out",
    frozenset(
        {"ghost batches", "adjustment"}
    ): "the adjustment sees the shape of the whole batch, not of a group",
    frozenset({"ghost batches", "sample variance"}): "the average of the groups' sample variances is stored",
    frozenset({"ghost batches", "synchronized"}): "group k joins the k-th groups of the other replicas",
    frozenset({"averages by group", "synchronized"}): "group k joins the k-th groups of the other replicas",
    frozenset({"averages by group", "weights"}): "a group whose weights are all zero moves nothing",
    frozenset({"several axes", "fused"}): "a call is refused if the axes form three or more separate runs",
    frozenset({"ghost batches", "fused"}): "one kernel call over groups × channels",
    frozenset({"weights", "fused"}): "a call is refused if the weights differ between channels",
    frozenset({"synchronized", "fused"}): "a call is refused over a mapped axis of JAX",
    frozenset({"weights", "sample variance"}): "N is (Σw)² / Σw²",
    frozenset({"weights", "synchronized"}): "replicas are merged by their true weights",
    frozenset({"renorm", "zero-debias"}): "renorm's own averages stay as they are",
    frozenset({"activation", "residual"}): "the residual is added before the activation",
    frozenset(
        {"activation", "weights"}
    ): "the gradient through the activation is stored between its two passes",
    frozenset(
        {"adjustment", "fused"}
    ): "a factor per channel folds into gamma and beta; others come after the kernel",
}


def table() -> Iterator[tuple[str, str, Verdict]]:
    """Every pair of features with its verdict."""
    for first, second in combinations(FEATURES, 2):
        pair = frozenset({first, second})
        if pair in FORMS:
            continue
        if pair in REFUSED:
            yield first, second, Verdict(False, *REFUSED[pair])
        else:
            yield first, second, Verdict(True, REMARKS.get(pair, ""))


def features(options: Any) -> frozenset[str]:
    """The features that a set of options asks for, without those given with a call: weights, adjustment, residual."""
    current = options.renorm is not None and options.renorm.form == "current"
    debiased = options.renorm is not None and options.renorm.form == "debiased"
    asked = {
        "several axes": len(options.axes) > 1,
        "renorm": current,
        "debiased renorm": debiased,
        "ghost batches": options.ghost is not None and options.ghost.averages == "step",
        "averages by group": options.ghost is not None and options.ghost.averages == "group",
        "zero-debias": options.debias_mean,
        "sample variance": options.variance == "sample",
        "synchronized": options.synchronized,
        "activation": options.activation is not None,
        "fused": options.fused is True,
    }
    return frozenset(name for name, wanted in asked.items() if wanted)


def check(options: Any) -> None:
    """Raise ValueError if two of the options make no sense together."""
    asked = features(options)
    for pair, (why, remedy) in REFUSED.items():
        if pair <= asked:
            first, second = sorted(pair)
            raise ValueError(
                format_error(f"{first.capitalize()} and {second} were asked for together", why, remedy)
            )
