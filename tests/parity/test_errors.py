"""Which arguments are refused, where and with what type: every recorded combination on ours."""

import pytest

from parity import compare, discrete

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

RECORDS = list(discrete.records("errors").values())
GRAPH = [(r, c) for r in RECORDS for c in ("v1_layers", "contrib") if c in r["outcome"]]
KERAS = [r for r in RECORDS if {"tf_keras", "keras3"} & set(r["outcome"])]


def id_of(value):
    return value["id"] if isinstance(value, dict) else value


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize(("record", "column"), GRAPH, ids=id_of)
def test_recorded_graph_call(record, column, mode, parity):
    parity("errors")
    if mode == "tf2":
        record = in_tf2_mode(record, column)
    compare.assert_none(discrete.error(record, "ours", mode, column), f"{record['id']} {record['kwargs']}")


def in_tf2_mode(record, column):
    """v2 control flow names a dynamic call's output otherwise."""
    facts = record["outcome"][column]
    if "y_op" in facts:
        facts = facts | {"y_op": facts["y_op"].replace("cond/Merge", "cond/Identity")}
    return record | {"outcome": record["outcome"] | {column: facts}}


@pytest.mark.parametrize("record", KERAS, ids=lambda r: r["id"])
def test_recorded_keras_call(record, parity):
    parity("errors")
    compare.assert_none(discrete.keras_error(record, "ours", "tf2"), f"{record['id']} {record['kwargs']}")
