"""The table of pairs: complete, and obeyed by the constructors."""

import itertools
import re

import pytest

from batchnorm.combinations import FEATURES, FORMS, REFUSED, REMARKS, check, features, table
from batchnorm.options import Ghost, Options, Renorm

# How each feature is asked for. Weights, adjustments and residuals come with a call and are in no record.
FIELDS = {
    "several axes": {"axes": (1, 2)},
    "renorm": {"renorm": Renorm()},
    "debiased renorm": {"renorm": Renorm(form="debiased")},
    "ghost batches": {"ghost": Ghost(2)},
    "averages by group": {"ghost": Ghost(2, averages="group")},
    "adjustment": {},
    "weights": {},
    "zero-debias": {"debias_mean": True},
    "sample variance": {"variance": "sample"},
    "synchronized": {"synchronized": True},
    "activation": {"activation": "relu"},
    "residual": {},
    "fused": {"fused": True},
}
WITH_A_CALL = {"adjustment", "weights", "residual"}
ROWS = list(table())


def ids(rows) -> list[str]:
    return [f"{first} with {second}" for first, second, _ in rows]


def test_every_pair_stands_in_the_table_once() -> None:
    pairs = [frozenset(row[:2]) for row in ROWS]
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == {frozenset(pair) for pair in itertools.combinations(FEATURES, 2)} - set(FORMS)


def test_the_fields_above_ask_for_the_features() -> None:
    assert set(FIELDS) == set(FEATURES)
    for name, fields in FIELDS.items():
        assert features(Options(**fields)) == (frozenset() if name in WITH_A_CALL else {name}), name


def test_every_verdict_and_remark_is_about_a_pair_of_the_table() -> None:
    pairs = {frozenset(row[:2]) for row in ROWS}
    assert set(REFUSED) | set(REMARKS) <= pairs
    assert not set(REFUSED) & set(REMARKS)
    assert {frozenset(row[:2]) for row in ROWS if not row[2].works} == set(REFUSED)


@pytest.mark.parametrize("row", ROWS, ids=ids(ROWS))
def test_what_the_table_says_can_be_read(row) -> None:
    first, second, verdict = row
    pair = frozenset({first, second})
    assert (verdict.note, verdict.remedy) == (
        REFUSED[pair] if pair in REFUSED else (REMARKS.get(pair, ""), "")
    )
    for part in (verdict.note, verdict.remedy):
        assert part == part.strip()
        assert not part.endswith(".")  # it becomes a sentence of a message, or a cell
        assert "\n" not in part
        assert "|" not in part
    if not verdict.works:
        assert len(verdict.note) > 20
        assert verdict.remedy[0].isupper()


ALLOWED = [row for row in ROWS if row[2].works]
FORBIDDEN = [row for row in ROWS if not row[2].works]


@pytest.mark.parametrize("row", ALLOWED, ids=ids(ALLOWED))
def test_allowed_pairs_construct(row) -> None:
    first, second, _ = row
    assert features(Options(**FIELDS[first], **FIELDS[second])) == {first, second} - WITH_A_CALL


MESSAGES = {
    ("renorm", "sample variance"): (
        "Renorm and sample variance were asked for together. Renorm derives the moving variance from the "
        "moving deviation, which is the population's. "
        "Use variance='population', or leave renorm out."
    ),
    ("debiased renorm", "sample variance"): (
        "Debiased renorm and sample variance were asked for together. Renorm derives the moving variance "
        "from the renorm deviation, which is the population's. "
        "Use variance='population', or leave renorm out."
    ),
    ("debiased renorm", "zero-debias"): (
        "Debiased renorm and zero-debias were asked for together. The debiased form of renorm already feeds "
        "the moving mean with a debiased average. Use Renorm(form='current'), or leave the zero-debias out."
    ),
    ("averages by group", "renorm"): (
        "Averages by group and renorm were asked for together. In a loop over chunks each group is corrected by "
        "averages that the previous group has already moved, but here all groups are normalized at once. "
        "Use Ghost(averages='step'), or leave renorm out."
    ),
    ("averages by group", "debiased renorm"): (
        "Averages by group and debiased renorm were asked for together. In a loop over chunks each group is corrected "
        "by averages that the previous group has already moved, but here all groups are normalized at once. "
        "Use Ghost(averages='step'), or leave renorm out."
    ),
    ("averages by group", "zero-debias"): (
        "Averages by group and zero-debias were asked for together. Zero-debias counts training steps, but each step "
        "would move the mean several times. Use Ghost(averages='step'), or leave the zero-debias out."
    ),
}


def test_every_refused_pair_has_its_message_here() -> None:
    assert {frozenset(pair) for pair in MESSAGES} == {frozenset(row[:2]) for row in FORBIDDEN}


@pytest.mark.parametrize("pair", MESSAGES, ids=" with ".join)
def test_refused_pairs_raise_at_construction(pair: tuple[str, str]) -> None:
    first, second = pair
    with pytest.raises(ValueError, match=f"^{re.escape(MESSAGES[pair])}$"):
        Options(**FIELDS[first], **FIELDS[second])


def test_a_third_option_hides_no_refusal() -> None:
    with pytest.raises(ValueError, match="Renorm and sample variance were asked for together"):
        Options(axes=(1, 2), ghost=Ghost(2), renorm=Renorm(), variance="sample", debias_mean=True)


def test_what_options_have_checked_passes_again() -> None:
    check(Options(axes=(1, 2), renorm=Renorm(), ghost=Ghost(2), debias_mean=True, fused=True))
