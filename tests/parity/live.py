"""One random case on a live original and on ours, everything compared."""

from dataclasses import replace

import oracle_cases
import tolerances
from originals import inputs
from originals.client import run
from parity import by_oracle, compare, deviations, golden
from parity.compare import Tolerance
from parity.random_cases import draw

FILES = {"v1": "v1_layers", "contrib": "contrib_batch_norm", "tf_keras": "tf_keras", "keras3": "keras3"}
# Facts that are ours to choose: which kernel runs, and further entries of a configuration.
FREE = {"v1": (), "contrib": ("fused",), "tf_keras": ("fused", "config"), "keras3": ("fused", "config")}


def check(api, seed, mode):
    """The differences between ours and the live original on a drawn case."""
    case = draw(api, seed)
    if mode == "tf2" and case["options"].get("virtual_batch_size") and case["train_kind"] == "placeholder":
        case["train_kind"] = "const"  # the original would drop the groups
    suite = golden.SUITES[api]
    original = run(suite.original, mode, suite.scenario, case=case)
    record = case | {"case": described(api, case, original), "expect": original, "id": f"live {seed}"}
    given, expected = deviations.apply(api, record, mode, case, original)
    arguments = {"case": given}
    if api == "tf_keras":
        arguments["extra"] = golden.keras2_form(original["fused"])
    ours = run("ours", mode, suite.scenario, **arguments)
    if api == "tf_keras":
        ours |= {k: golden.short_names(ours[k]) for k in ("variables", "trainable")}
    return case, differences(record, ours, expected, FREE[api])


def described(api, case, original):
    """golden_data's Case with what the oracle's rules read of a record."""
    expect = {k: v for k, v in original.items() if k != "steps"}
    return replace(inputs.as_case(case), api=FILES[api], expect=expect)


def differences(record, ours, expected, free):
    """Gradients are judged by the size of the terms that cancel in them."""
    scales = by_oracle.scales(record["case"])
    return compare.numeric(ours, expected, live_tolerance(record), free, scales)


def live_tolerance(record):
    """1e-5 in float32 (1e-4 where a fused kernel rounds in its own order), 1e-12 in float64."""
    case, stored = record["case"], record["expect"]["variables"][-1][2]
    value, state = tolerances.tolerance(case.dtype), tolerances.tolerance(stored)
    if record["expect"].get("fused") or case.options.get("synchronized"):
        value, state = max(value, 1e-4), max(state, 1e-4)
    if case.api == "keras3" and case.options.get("mask"):
        value, state = (max(t, oracle_cases.KERAS3_MASK_TOLERANCE) for t in (value, state))
    if case.options.get("zero_debias_moving_mean") and case.dtype != "float64":
        # The original's 1 - decay^t in float32 keeps four digits at a decay of 0.999.
        value, state = max(value, 1e-4), max(state, 1e-4)
    if stored == "float16":
        # Averages kept in 16 bits also decide what inference gives.
        value, state = 1e-2, 1e-2
    return Tolerance(value, state)
