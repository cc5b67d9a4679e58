"""The core's errors in the words of a face: each field of a record by the name of the argument that set it."""

import re
from collections.abc import Mapping

from batchnorm.options import BOUNDS

__all__ = ["CLIPPING", "NAMES", "reworded"]

# As every check in `batchnorm.options` names a field: `Ghost(order='x')`. The value may hold one pair of parentheses.
FIELD = re.compile(r"\b(Options|Renorm|Ghost|Clip)\((\w+)=((?:[^()]|\([^()]*\))*)\)")
# The bounds, which every face takes in one mapping.
CLIPPING = {f"Clip.{name}": f"renorm_clipping[{name!r}]" for name in BOUNDS}
# What most faces call the core's fields. A face that uses other names replaces these entries.
NAMES = {
    "Options.axes": "axis",
    "Options.decay": "momentum",
    "Options.epsilon": "epsilon",
    "Options.variance": "variance",
    "Options.fused": "fused",
    "Renorm.decay": "renorm_momentum",
    "Renorm.form": "renorm_form",
    "Ghost.order": "ghost_order",
    "Ghost.remainder": "ghost_remainder",
    "Ghost.averages": "ghost_averages",
    **CLIPPING,
}


def reworded(error: TypeError | ValueError, names: Mapping[str, str]) -> TypeError | ValueError:
    """The same error; `names` maps "Ghost.order" to the argument's name. A field that is missing keeps its own."""

    def rename(found: re.Match[str]) -> str:
        record, field, value = found.groups()
        name = names.get(f"{record}.{field}")
        return found.group() if name is None else f"{name}={value}"

    return type(error)(FIELD.sub(rename, str(error)))
