"""Degenerate batches: every recorded edge on ours."""

import pytest

from parity import compare, discrete

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]

EDGES = [(r, c) for r in discrete.records("edge").values() for c in r["outcome"] if c in discrete.EDGES]


def id_of(value):
    return value["id"] if isinstance(value, dict) else value


@pytest.mark.parametrize(("record", "column"), EDGES, ids=id_of)
def test_recorded_edge(record, column, parity):
    parity("edges")
    _, _, mode, _ = discrete.EDGES[column]
    compare.assert_none(discrete.edge(record, "ours", mode, column), f"{record['id']} {record['title']}")
