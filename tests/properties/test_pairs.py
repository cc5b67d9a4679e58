"""The combination table, row by row: what works against the oracle on every engine, what does not its message."""

import re

import pytest

from batchnorm.combinations import FEATURES, FORMS, table
from batchnorm.options import Clip, Ghost, Options, Renorm
from properties.cases import Case
from properties.compare import check_case
from properties.runners import RUNNERS, Runner

pytestmark = pytest.mark.slow(1)

SHAPE = (6, 2, 3, 2)
CLIP = Clip(0.8, 1.25, 0.5)
# feature: the fields of Options, or of the case, that ask for it
FIELDS = {
    "several axes": {"axes": (1, -1)},
    "renorm": {"renorm": Renorm(CLIP, 0.7)},
    "debiased renorm": {"renorm": Renorm(CLIP, 0.7, "debiased")},
    "ghost batches": {"ghost": Ghost(3)},
    "averages by group": {"ghost": Ghost(2, averages="group")},
    "zero-debias": {"debias_mean": True},
    "sample variance": {"variance": "sample"},
    "synchronized": {"synchronized": True},
    "fused": {"fused": True},
    "weights": {"weights": (6, 1, 1, 1), "weightless": "some"},
    "adjustment": {"adjustment": ((6, 1, 1, 1), (2,))},
    "activation": {"activation": "relu6"},
    "residual": {"residual": True},
}
WITH_A_CALL = ("weights", "adjustment", "residual")
ROWS = {f"{first} with {second}": (first, second, verdict) for first, second, verdict in table()}
ALLOWED = [name for name, (*_, verdict) in ROWS.items() if verdict.works]
REFUSED = [name for name in ROWS if name not in ALLOWED]


# A graph that knows less of the shapes stands for the one that knows more.
every_engine = pytest.mark.parametrize(
    "runner", [name for name in RUNNERS if name != "tensorflow-graph"], indirect=True
)


def asked_for(*names: str) -> tuple[dict, dict]:
    options = {k: v for name in names if name not in WITH_A_CALL for k, v in FIELDS[name].items()}
    case = {k: v for name in names if name in WITH_A_CALL for k, v in FIELDS[name].items()}
    return options, case


@every_engine
@pytest.mark.parametrize("name", FEATURES)
def test_each_feature_alone_agrees_with_the_oracle(runner: Runner, name: str) -> None:
    options, case = asked_for(name)
    check_case(runner, Case(Options(decay=0.9, **options), SHAPE, seed=5, **case))


@every_engine
@pytest.mark.parametrize("name", ALLOWED)
def test_allowed_pairs_agree_with_the_oracle(runner: Runner, name: str) -> None:
    options, case = asked_for(*ROWS[name][:2])
    check_case(runner, Case(Options(decay=0.9, **options), SHAPE, seed=6, **case))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_pairs_say_why_and_what_to_do(name: str) -> None:
    first, second, verdict = ROWS[name]
    options, _ = asked_for(first, second)
    with pytest.raises(ValueError, match=f"{re.escape(verdict.note)}. {re.escape(verdict.remedy)}.$"):
        Options(**options)


def test_the_tables_rows_are_all_here() -> None:
    assert len(ALLOWED) + len(REFUSED) == len(FEATURES) * (len(FEATURES) - 1) // 2 - len(FORMS)
    assert set(FIELDS) == set(FEATURES)
