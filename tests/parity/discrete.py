"""Checks the goldens that are not three training steps: graph effects, errors, edges and tracked scopes."""

from functools import cache

import numpy as np

import golden_data
import tolerances
from originals.client import run
from parity import deviations
from parity.compare import exact, numbers

# column of the golden files: (the scenario, the side and the mode of the recorded original, the rules' suite)
ERRORS = {
    "v1_layers": ("errors.v1_layer", "original", "tf1", "errors_v1"),
    "contrib": ("errors.contrib", "original", "tf1", "errors_contrib"),
    "tf_keras": ("errors.keras_layer", "original", "tf2", "errors_keras"),
    "keras3": ("errors.keras_layer", "keras3", "tf2", "errors_keras"),
}
EDGES = {
    "v1_layers": ("edge.v1_layer", "original", "tf1", "edge_v1"),
    "tf_keras": ("edge.keras_layer", "original", "tf2", "edge_tf_keras"),
    "keras3": ("edge.keras_layer", "keras3", "tf2", "edge_keras3"),
}


@cache
def records(name):
    return {record["id"]: record for record in golden_data.raw(name)["cases"]}


def expectation(suite, record, side, mode, recorded):
    if side.startswith("ours"):
        return deviations.apply(suite, record, mode, None, recorded)[1]
    return recorded


# --- graph effects ---


def graph(record, side, mode):
    """With v2 behavior the goldens hold only outputs and UPDATE_OPS; a live original fills in the rest."""
    expected = record["result"]
    result = run(side, mode, "graph.effects", script=record["script"])
    if mode == "tf2":
        updates = record.get("tf2_behavior_update_ops")
        outputs = record.get("tf2_behavior_outputs", expected.get("outputs"))
        members = run("original", "tf2", "graph.effects", script=record["script"])["collections"]
        expected = expected | {"collections": members | ({"update_ops": updates} if updates else {})}
        expected = expected | ({"outputs": outputs} if outputs else {})
    expected = expectation("graph", record, side, mode, expected)
    return graph_differences(result, expected)


def graph_differences(result, expected):
    found = [d for k in expected if k != "collections" for d in exact(result.get(k), expected[k], k)]
    # An empty collection says only that somebody looked.
    got, want = ({k: v for k, v in r["collections"].items() if v} for r in (result, expected))
    differences = [
        d for k in sorted({*got, *want}) for d in exact(got.get(k), want.get(k), f"collection {k}")
    ]
    message = [f"message: {result['message']}"] if "message" in result else []
    return found + differences + (message if found else [])


# --- errors ---


def error(record, side, mode, column):
    """One column's outcome; ours may raise the same type already at construction."""
    scenario, _, _, suite = ERRORS[column]
    expected = expectation(suite, record, side, mode, record["outcome"][column])
    return error_differences(run(side, mode, scenario, record=record), expected, side)


def error_differences(result, expected, side):
    ours = side.startswith("ours")
    differences = []
    for key, want in expected.items():
        got = result.get(key)
        earlier = ours and (key, got, want) == ("stage", "ctor", "call")
        # What a caller catches is an error of the wanted type or of one derived from it.
        caught = ours and key == "type" and want in result.get("kinds", ())
        if not earlier and not caught and got != want:
            differences.append(f"{key}: got {got!r}, expected {want!r} ({result.get('message', 'no error')})")
    return differences


def keras_error(record, side, mode):
    """Ours joins two Kerases: where they differ, either's outcome will do; a rule goes before both."""
    columns = [c for c in ("tf_keras", "keras3") if c in record["outcome"]]
    result = run(side, mode, "errors.keras_layer", record=record)
    attempts = []
    for column in columns:
        expected = expectation("errors_keras", record, side, mode, record["outcome"][column])
        expected = {k: v for k, v in expected.items() if k != "fused"}
        attempts.append(error_differences(result, expected, side))
    return [] if [] in attempts else [d for attempt in attempts for d in attempt]


# --- edges ---


def edge(record, side, mode, column):
    scenario, _, _, suite = EDGES[column]
    expected = expectation(suite, record, side, mode, record["outcome"][column])
    arguments = {"record": record}
    if side.startswith("ours") and column == "tf_keras":
        fusable = len(record["shape"]) == 4 and record["options"] == {}
        arguments["extra"] = {"variance": "sample" if fusable else "population"}
    result = run(side, mode, scenario, **arguments)
    value = tolerances.golden_tolerance(record["dtype"])
    state = tolerances.golden_tolerance("float32")
    differences = [d for k in ("ok", "y_shape") for d in exact(result[k], expected[k], k)]
    differences += [
        d for k in ("y", "dx_of_sum", "y_infer") for d in numbers(result[k], expected[k], value, k)
    ]
    for name, want in expected["vars"].items():
        differences += one(result["vars"], name, want, state, name)
    return differences


def one(values, name, want, tolerance, where):
    """The one variable of that name against its recorded numbers."""
    matches = [np.ravel(v) for k, v in values.items() if is_named(k, name)]
    if len(matches) != 1:
        return [f"{where}: {len(matches)} variables of that name among {list(values)}"]
    return numbers(matches[0], np.ravel(want).tolist(), tolerance, where)


# --- tracked scopes ---


def tracked(record, side, mode="tf2"):
    recorded = record["result"]
    flags = [step["training"] for step in recorded.get("steps", ())] or [True, True, False]
    result = run(side, mode, "tracking.layer", record=record, flags=flags)
    expected = expectation("tracking", record, side, mode, recorded)
    return tracked_differences(result, expected)


def tracked_differences(result, expected):
    message = result.get("message", "no error")
    if not expected["ok"] or not result["ok"]:
        facts = {k: result.get(k) for k in ("ok", "type")}
        return exact(facts, {"ok": expected["ok"], "type": expected.get("type")}, f"outcome ({message})")
    tolerance = tolerances.golden_tolerance("float32")
    differences = []
    for key in ("weights", "trainable"):
        names = [name.removesuffix(":0") for name in expected[key]]
        same = len(result[key]) == len(names) and all(map(is_named, result[key], names))
        differences += [] if same else [f"{key}: got {result[key]}, expected {names}"]
    for index, (got, want) in enumerate(zip(result["steps"], expected["steps"], strict=True)):
        # The goldens keep the first six numbers of y.
        differences += numbers(np.ravel(got["y"])[: len(want["y"])], want["y"], tolerance, f"step {index}, y")
        for name, value in want["weights"].items():
            plain = name.removesuffix(":0")
            differences += one(got["weights"], plain, value, tolerance, f"step {index}, {plain}")
    return differences + numbers(np.array(result["losses"]), expected["losses"], tolerance, "losses")


def is_named(full, name):
    """Keras 3 puts the wrapping layer's name before a variable's own."""
    return full == name or full.endswith("/" + name)
