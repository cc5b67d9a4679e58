"""Every place where our package deliberately differs from an original, and what is expected there instead.

A rule names the suites, the records it covers and the reason, and one or both of: `given`, the case that ours
gets instead of the original's; `expected`, what ours must give instead. No record is skipped.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import golden_data
import oracle_cases
from parity import by_oracle

Record = dict[str, Any]


@dataclass(frozen=True)
class Rule:
    """`given` and `expected` take (case or expectation, golden record); None leaves it as it is."""

    suites: tuple[str, ...]
    reason: str
    applies: Callable[[Record, str], bool]
    given: Callable[[Record, Record], Record] | None = None
    expected: Callable[[Record, Record], Record] | None = None


def rules(suite, record, mode):
    """Those that cover a record; `RULES` below lists all of them."""
    return [rule for rule in RULES if suite in rule.suites and rule.applies(record, mode)]


def apply(suite, record, mode, case, expected):
    """The case and the expectation after every rule that covers the record."""
    for rule in rules(suite, record, mode):
        case = rule.given(case, record) if rule.given else case
        expected = rule.expected(expected, record) if rule.expected else expected
    return case, expected


# --- numeric suites ---


def options_of(record):
    return record.get("options", {})


def is_float64(record, mode):
    return "float64" in (record.get("dtype"), record.get("policy"))


def with_float32_decay(case, record):
    """Ours keeps exactly the share it is given, so it is given the share that the original kept."""
    names = ("momentum", "decay", "renorm_momentum", "renorm_decay")
    rounded = {k: oracle_cases.float32_decay(v) for k, v in case["options"].items() if k in names}
    return case | {"options": case["options"] | rounded}


def ghosts_and_dynamic(record, mode):
    return mode == "tf2" and "tf2_behavior" in record


def masked_and_fused(record, mode):
    return bool(options_of(record).get("mask")) and record["expect"].get("fused", False)


def masked_steps(expected, record):
    return expected | {"steps": by_oracle.steps(record["case"])}


def masked_population_steps(expected, record):
    return expected | {"steps": by_oracle.steps(record["case"], variance="population")}


def has_weightless_channel(record, mode):
    case = record["case"]
    weights = (oracle_cases.weights_at(case, None, t) for t in range(3))
    return any(oracle_cases.without_weight(case, w).any() for w in weights if w is not None)


def float16_policy(record, mode):
    return record.get("policy") in ("float16", "bfloat16")


def as_mixed_policy(case, record):
    return case | {"policy": f"mixed_{case['policy']}"}


def leaves_core(record):
    """Whether contrib's original takes a path of its own, where it drops what only the v1 layer knows."""
    options = options_of(record)
    return (
        options["updates_collections"] != "update_ops"
        or "batch_weights" in options
        or options.get("zero_debias_moving_mean", False)
    )


def narrow_statistics(record, mode):
    return any(_is_narrow_statistic(*variable) for variable in record["expect"].get("variables", ()))


def _is_narrow_statistic(name, shape, dtype):
    return dtype in ("float16", "bfloat16") and name.rsplit("/", 1)[-1] not in ("gamma", "beta")


def with_wide_statistics(expected, record):
    widened = [
        [name, shape, "float32" if _is_narrow_statistic(name, shape, dtype) else dtype]
        for name, shape, dtype in expected["variables"]
    ]
    return expected | {"variables": widened}


def drops_adjustment(record, mode):
    return "adjustment" in options_of(record) and leaves_core(record)


def with_adjustment(expected, record):
    """The statistics do not depend on the adjustment, so the recorded variables stay."""
    adjusted = by_oracle.steps(record["case"])
    kept = [{k: v for k, v in step.items() if k == "vars"} for step in expected["steps"]]
    return expected | {"steps": [a | k for a, k in zip(adjusted, kept, strict=True)]}


def drops_regularizers(record, mode):
    options = options_of(record)
    trained = options["center"] or options["scale"]
    dropped = "regularization_losses" not in record["expect"]
    return bool(options.get("reg")) and trained and dropped and leaves_core(record)


def with_regularizers(expected, record):
    start = golden_data.initial_values(record["case"])
    names = [name.rsplit("/", 1)[-1] for name, _, _ in expected["variables"]]
    losses = [0.05 * float(np.sum(start[name] ** 2)) for name in names if name in ("gamma", "beta")]
    return expected | {"regularization_losses": losses}


# --- graph effects, errors, edges, tracking ---


def record_is(*ids):
    return lambda record, mode: record["id"] in ids


def one_collection_name(expected, record):
    members = expected["collections"]
    return expected | {
        "collections": {k: v for k, v in members.items() if k not in "vc"} | {"vc": members["v"]}
    }


def regularized_on_every_path(expected, record):
    losses = expected["collections"]["regularization_losses"]
    honored = [*losses, "BatchNorm_2/gamma/Regularizer/mul_1"]
    return expected | {"collections": expected["collections"] | {"regularization_losses": honored}}


def outcome(**facts):
    return lambda expected, record: facts


def untouched(expected, record):
    """The state's initial values: zero means, unit variances and deviations."""
    start = {
        name: np.full(np.shape(v), 0.0 if "mean" in name else 1.0) for name, v in expected["vars"].items()
    }
    return expected | {"vars": start}


def empty_input(record, mode):
    return 0 in record["shape"]


def stable_root_names(expected, record):
    """What the same body gives inside a named scope, without that scope's name."""
    twin = {"eager": "sh-03", "tf.function": "sh-04"}[record["mode"]]
    scoped = next(r for r in golden_data.raw("tracked_scopes")["cases"] if r["id"] == twin)["result"]
    steps = [
        s | {"weights": {k.removeprefix("m/"): v for k, v in s["weights"].items()}} for s in scoped["steps"]
    ]
    names = {k: [name.removeprefix("m/") for name in scoped[k]] for k in ("weights", "trainable")}
    return scoped | names | {"steps": steps}


RULES = (
    Rule(
        ("v1", "contrib", "tf_keras"),
        "float64 averages keep exactly `momentum`; the originals round 1 - momentum to float32",
        is_float64,
        given=with_float32_decay,
    ),
    Rule(
        ("v1",),
        "ghost groups are kept when `training` is dynamic; the original drops them with v2 behavior enabled",
        ghosts_and_dynamic,
        expected=lambda expected, record: expected | {"steps": record["expect"]["steps"]},
    ),
    Rule(
        ("tf_keras",),
        "Keras 3 takes regularization losses of trainable variables only",
        lambda record, mode: not options_of(record).get("trainable", True),
        expected=lambda expected, record: expected | {"regularization_losses": []},
    ),
    Rule(
        ("tf1_renorm",),
        "the form of TensorFlow 1.14 and earlier is asked for by name",
        lambda record, mode: True,
        given=lambda case, record: case | {"options": case["options"] | {"renorm_form": "debiased"}},
    ),
    Rule(
        ("v1",),
        "a mask counts on the fused path too, and weighted statistics store the population's variance; the original "
        "drops the mask there with a warning",
        masked_and_fused,
        expected=masked_population_steps,
    ),
    Rule(
        ("tf_keras",),
        "a mask counts on the fused path too; the original drops it there with a warning",
        masked_and_fused,
        expected=masked_steps,
    ),
    Rule(
        ("v1", "tf_keras", "keras3", "contrib"),
        "a channel without weight keeps its state and is normalized by it",
        has_weightless_channel,
        expected=masked_steps,
    ),
    Rule(
        ("tf_keras",),
        "a Keras 3 layer stores gamma and beta in the policy's dtype; Keras 2 kept float32 under float16",
        float16_policy,
        given=as_mixed_policy,
    ),
    Rule(
        ("contrib", "keras3"),
        "statistics are float32 at least; Keras 3 keeps them in the policy's 16 bits, and contrib in those of x where "
        "it leaves the v1 layer",
        narrow_statistics,
        expected=with_wide_statistics,
    ),
    Rule(
        ("contrib",),
        "an adjustment counts on every path; the original drops it where it leaves the v1 layer",
        drops_adjustment,
        expected=with_adjustment,
    ),
    Rule(
        ("contrib",),
        "param_regularizers count on every path; the original drops them where it leaves the v1 layer",
        drops_regularizers,
        expected=with_regularizers,
    ),
    Rule(
        ("graph",),
        "a plain string is one collection's name; the original takes it letter by letter",
        record_is("gr-45"),
        expected=one_collection_name,
    ),
    Rule(
        ("graph",),
        "param_regularizers count on every path",
        record_is("gr-50"),
        expected=regularized_on_every_path,
    ),
    Rule(
        ("errors_v1", "errors_keras"),
        "an adjustment goes with ghost batches",
        record_is("err-13"),
        expected=outcome(ok=True, y_dtype="float32"),
    ),
    Rule(
        ("errors_v1", "errors_keras"),
        "renorm works in float64",
        record_is("err-33"),
        expected=outcome(ok=True, y_dtype="float64"),
    ),
    Rule(
        ("errors_v1", "errors_keras"),
        "no axis at all is refused at construction, before any variable exists",
        record_is("err-09"),
        expected=outcome(ok=False, stage="ctor", type="ValueError"),
    ),
    Rule(
        ("errors_keras",),
        "axes may be listed, and two that name the same axis are refused as in the v1 layer",
        record_is("err-03"),
        expected=outcome(ok=False, stage="call", type="ValueError"),
    ),
    Rule(
        ("errors_keras",),
        "a batch that the ghost size does not divide is an error of ours that names both",
        record_is("err-28"),
        expected=outcome(ok=False, stage="call", type="ValueError"),
    ),
    Rule(
        ("errors_keras",),
        "a ghost size that is not an int is a TypeError, as in the v1 layer",
        record_is("err-29"),
        expected=outcome(ok=False, stage="call", type="TypeError"),
    ),
    Rule(
        ("errors_keras",),
        "an adjustment of another dtype is a TypeError, as in the v1 layer",
        record_is("err-37"),
        expected=outcome(ok=False, stage="call", type="TypeError"),
    ),
    Rule(
        ("errors_contrib",),
        "float64 works on every path",
        record_is("cle-27"),
        expected=outcome(ok=True, y_dtype="float64", n_update_ops=2),
    ),
    Rule(
        ("errors_contrib",),
        "float64 works on every path",
        record_is("cle-29"),
        expected=outcome(ok=True, y_dtype="float64", n_update_ops=0),
    ),
    Rule(
        ("errors_contrib",),
        "renorm goes with weights and with zero-debias",
        record_is("cle-17", "cle-19"),
        expected=outcome(ok=True, y_op="BatchNorm/batchnorm_1/add_1", y_dtype="float32", n_update_ops=2),
    ),
    Rule(
        ("errors_contrib",),
        "renorm goes with updates in place",
        record_is("cle-18"),
        expected=outcome(ok=True, y_op="BatchNorm/batchnorm_1/add_1", y_dtype="float32", n_update_ops=0),
    ),
    Rule(
        ("edge_v1", "edge_tf_keras", "edge_keras3"),
        "a batch without elements leaves the state as it is; the originals fill it with NaN",
        empty_input,
        expected=untouched,
    ),
    Rule(
        ("tracking",),
        "a default name at the root is the same in every call; the original makes new variables or fails",
        record_is("sh-05", "sh-06"),
        expected=stable_root_names,
    ),
)
