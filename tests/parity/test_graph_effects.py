"""Variables, collections and op names: recorded snippets, and further ones against the live original."""

import pytest

from originals.client import run
from parity import compare, discrete
from parity.snippets import SNIPPETS

pytestmark = [pytest.mark.needs("tensorflow", "keras", "tf_keras", "tf_slim"), pytest.mark.originals]


@pytest.mark.parametrize("side", ["ours", "ours_legacy"])
@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize("record", list(discrete.records("graph_effects").values()), ids=lambda r: r["id"])
def test_recorded_snippet(record, mode, side, parity):
    parity("graph effects")
    compare.assert_none(discrete.graph(record, side, mode), f"{record['id']} {record['script']}")


@pytest.mark.parametrize("mode", ["tf1", "tf2"])
@pytest.mark.parametrize("title", list(SNIPPETS))
def test_live_snippet(title, mode, parity):
    parity("graph effects")
    original, ours = (
        run(side, mode, "graph.effects", script=SNIPPETS[title]) for side in ("original", "ours")
    )
    assert original["ok"] or original["type"] not in ("NameError", "SyntaxError"), original
    original.pop("message", None)
    compare.assert_none(discrete.graph_differences(ours, original), f"{title}: {SNIPPETS[title]}")
