"""The harness itself: live originals give the recorded numbers, and a changed result is noticed."""

import numpy as np
import pytest

import golden_data
from originals.client import ScenarioError, run
from originals.scenarios_checkpoint import STEPS
from parity import compare, discrete, golden
from parity.checkpoints import CHECKPOINT, end_values, recorded, start_values

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]


# A sample, to be quick: `python -m originals.run v1 '*' original tf1` checks a whole suite.
def id_of(value):
    return value["id"] if isinstance(value, dict) else value


NUMERIC = [
    (name, record, mode)
    for name, suite in golden.SUITES.items()
    if name != "tf1_renorm"  # its original, TensorFlow 1.13, runs on Python 3.7 at the latest
    for mode in suite.modes
    for record in list(golden.records(name).values())[3::12]
]


@pytest.mark.parametrize(("name", "record", "mode"), NUMERIC, ids=id_of)
def test_an_original_gives_the_recorded_numbers(name, record, mode):
    suite = golden.SUITES[name]
    compare.assert_none(golden.check(name, record, suite.original, mode), record["id"])


def sample(name, stride):
    return list(discrete.records(name).values())[::stride]


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize("record", sample("graph_effects", 4), ids=id_of)
def test_an_original_leaves_the_recorded_graph(record, mode):
    compare.assert_none(discrete.graph(record, "original", mode), record["id"])


ERRORS = [(r, c) for r in sample("errors", 5) for c in r["outcome"] if c in discrete.ERRORS]


@pytest.mark.parametrize(("record", "column"), ERRORS, ids=id_of)
def test_an_original_raises_as_recorded(record, column):
    _, side, mode, _ = discrete.ERRORS[column]
    compare.assert_none(discrete.error(record, side, mode, column), record["id"])


EDGES = [(r, c) for r in sample("edge", 3) for c in r["outcome"] if c in discrete.EDGES]


@pytest.mark.parametrize(("record", "column"), EDGES, ids=id_of)
def test_an_original_meets_the_recorded_edges(record, column):
    _, side, mode, _ = discrete.EDGES[column]
    compare.assert_none(discrete.edge(record, side, mode, column), record["id"])


@pytest.mark.parametrize("record", sample("tracked_scopes", 4), ids=id_of)
def test_an_original_tracks_as_recorded(record):
    compare.assert_none(discrete.tracked(record, "original"), record["id"])


def test_the_originals_restore_and_train_the_recorded_checkpoint():
    restored = run("original", "tf1", "checkpoint.restore", checkpoint=str(CHECKPOINT), x=recorded("x"))
    assert np.abs(restored["logits"] - recorded("logits")).max() < 2e-6
    trained = run("original", "tf1", "checkpoint.train", start=start_values())
    assert len(trained["losses"]) == STEPS
    for name, value in end_values().items():
        np.testing.assert_allclose(trained["values"][name], value, rtol=0, atol=5e-6, err_msg=name)


def test_a_changed_number_name_or_collection_is_noticed():
    record = golden.records("v1")["v1-001"]
    result = run("original", "tf1", "v1.numeric", case=golden.inputs.record(record))
    tolerance = golden.tolerance(record)
    assert compare.numeric(result, record["expect"], tolerance) == []
    for path in ("y", "dx", "dgamma", "dbeta"):
        changed = record["expect"] | {"steps": [dict(s) for s in record["expect"]["steps"]]}
        changed["steps"][1][path] = [v + 1e-3 for v in changed["steps"][1][path]]
        assert [d for d in compare.numeric(result, changed, tolerance) if path in d], path
    for key, value in (("y_op", "other"), ("n_update_ops", 3), ("trainable", []), ("absent", 1)):
        assert compare.numeric(result, record["expect"] | {key: value}, tolerance), key


def test_a_scenario_that_raises_says_where_and_the_worker_lives_on():
    with pytest.raises(ScenarioError, match=r"(?s)original tf1 graph.effects.*TypeError") as caught:
        run("original", "tf1", "graph.effects", wrong=1)
    assert caught.value.error == "TypeError"
    assert run("original", "tf1", "graph.effects", script="R=[bn(x2)]")["ok"]


def test_what_tensorflow_prints_stays_out_of_the_answers():
    script = "import os; os.write(1, b'noise'); print('noise'); R=[x2]"
    assert run("original", "tf1", "graph.effects", script=script)["ok"]


def test_every_recorded_case_has_a_suite():
    numeric = {suite.file for suite in golden.SUITES.values()}
    assert numeric == set(golden_data.NUMERIC)
