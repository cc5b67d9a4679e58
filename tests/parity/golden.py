"""Checks one golden record on one side: `check("v1", record, "ours", "tf1")` lists the differences.

An original must match the record itself; ours must match what `deviations` makes of it.
"""

from dataclasses import dataclass
from functools import cache

import golden_data
import oracle_cases
from originals import inputs
from originals.client import run
from parity import by_oracle, compare, deviations
from parity.compare import Tolerance


@dataclass(frozen=True)
class Suite:
    """Where the records lie, the scenario that plays them and on what the recorded original runs."""

    file: str
    scenario: str
    original: str
    modes: tuple[str, ...]


SUITES = {
    "v1": Suite("v1_layers", "v1.numeric", "original", ("tf1", "tf2")),
    "tf1_renorm": Suite("tf1_renorm", "v1.numeric", "original", ("tf1", "tf2")),
    "contrib": Suite("contrib_batch_norm", "contrib.numeric", "original", ("tf1",)),
    "tf_keras": Suite("tf_keras", "keras.numeric", "original", ("tf2",)),
    "keras3": Suite("keras3", "keras.numeric", "keras3", ("tf2",)),
}


@cache
def records(name):
    """The raw records of a numeric suite by id, each with golden_data's Case beside it."""
    file = SUITES[name].file
    cases = {case.id: case for case in golden_data.load(file)}
    return {raw["id"]: raw | {"case": cases[raw["id"]]} for raw in golden_data.raw(file)["cases"]}


def check(name, record, side, mode):
    """The differences between a side's result and what is expected of it."""
    suite = SUITES[name]
    case, expected = inputs.record(record), expectation(record, mode)
    ours = side.startswith("ours")
    if ours:
        case, expected = deviations.apply(name, record, mode, case, expected)
    arguments = {"case": case}
    if ours and name == "tf_keras":
        arguments["extra"] = keras2_form(record["expect"]["fused"])
    result = run(side, mode, suite.scenario, **arguments)
    if ours and name == "tf_keras":
        result = result | {k: short_names(result[k]) for k in ("variables", "trainable")}
    # Which kernel runs is ours to choose, except in the v1 layer, whose attribute programs read.
    ignore = ("fused",) if ours and name != "v1" else ()
    scales = by_oracle.scales(record["case"])
    return compare.numeric(result, expected, tolerance(record), ignore, scales)


def expectation(record, mode):
    expected = {"regularization_losses": []} | record["expect"]
    if mode == "tf2" and "dtype" in record:
        # v2 control flow and casts name the output otherwise; the rest of the record holds in both modes.
        y_op = expected["y_op"].replace("cond/Merge", "cond/Identity").replace("Cast_3", "Cast_1")
        expected = expected | {"y_op": y_op} | record.get("tf2_behavior", {})
    return expected


def keras2_form(fused):
    """Our Keras layer's choice of variance where Keras 2 ran its fused kernel."""
    return {"variance": "sample" if fused else "population"}


def short_names(variables):
    """Names without the layer's: Keras 2 has none before them when a layer is built alone."""
    return [
        v.rsplit("/", 1)[-1] if isinstance(v, str) else [v[0].rsplit("/", 1)[-1], *v[1:]] for v in variables
    ]


def tolerance(record):
    return Tolerance(*oracle_cases.tolerances_of(record["case"]))
