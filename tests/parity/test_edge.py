"""Degenerate batches: every recorded edge on ours."""

import pytest

from parity import compare, discrete

EDGES = [(r, c) for r in discrete.records("edge").values() for c in r["outcome"] if c in discrete.EDGES]


@pytest.mark.parametrize(("record", "column"), EDGES, ids=lambda v: v["id"] if isinstance(v, dict) else v)
def test_recorded_edge(record, column, parity):
    parity("edges")
    _, _, mode, _ = discrete.EDGES[column]
    compare.assert_none(discrete.edge(record, "ours", mode, column), f"{record['id']} {record['title']}")
