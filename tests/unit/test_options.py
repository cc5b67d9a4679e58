"""Options: defaults, immutability, and each field's own check with its whole message."""

import dataclasses
import re

import numpy as np
import pytest

from batchnorm.options import Clip, Ghost, Options, Renorm

AVERAGE = (
    "It is the share of the old value that a moving average keeps. "
    "Pass a number such as 0.99, or a scalar array."
)
AXES = (
    "Statistics are kept per index of at least one axis, named by an int. "
    "Pass a tuple of ints such as (-1,) or (1, 3)."
)

# name: what is made, its error's type and whole message
WRONG = {
    "no axes": (lambda: Options(axes=()), ValueError, f"Options(axes=()) was asked for. {AXES}"),
    "a fraction": (lambda: Options(axes=(1.0,)), ValueError, f"Options(axes=(1.0,)) was asked for. {AXES}"),
    "a bool": (lambda: Options(axes=(True,)), ValueError, f"Options(axes=(True,)) was asked for. {AXES}"),
    "text": (lambda: Options(axes=("C",)), ValueError, f"Options(axes=('C',)) was asked for. {AXES}"),
    "decay None": (
        lambda: Options(decay=None),
        TypeError,
        f"Options(decay=None) was asked for. {AVERAGE}",
    ),
    "decay text": (
        lambda: Options(decay="0.9"),
        TypeError,
        f"Options(decay='0.9') was asked for. {AVERAGE}",
    ),
    "decay bytes": (
        lambda: Options(decay=b"1"),
        TypeError,
        f"Options(decay=b'1') was asked for. {AVERAGE}",
    ),
    "epsilon": (
        lambda: Options(epsilon=-1e-3),
        ValueError,
        "Options(epsilon=-0.001) was asked for. It keeps the square root away from zero, so it cannot "
        "be negative. Pass a small positive number such as 1e-3.",
    ),
    "variance": (
        lambda: Options(variance="biased"),
        ValueError,
        "Options(variance='biased') was asked for. There is no such choice. "
        "Pass one of 'population', 'sample'.",
    ),
    "renorm decay": (
        lambda: Renorm(decay=None),
        TypeError,
        f"Renorm(decay=None) was asked for. {AVERAGE}",
    ),
    "renorm form": (
        lambda: Renorm(form="old"),
        ValueError,
        "Renorm(form='old') was asked for. There is no such choice. Pass one of 'current', 'debiased'.",
    ),
    "ghost size type": (
        lambda: Ghost(2.0),
        TypeError,
        "A ghost batch size of 2.0 was asked for. The size counts examples, so it must be an int. "
        "Pass a positive int that divides the batch size.",
    ),
    "ghost size bool": (
        lambda: Ghost(True),
        TypeError,
        "A ghost batch size of True was asked for. The size counts examples, so it must be an int. "
        "Pass a positive int that divides the batch size.",
    ),
    "ghost size": (
        lambda: Ghost(0),
        ValueError,
        "A ghost batch size of 0 was asked for. A group needs at least one example. "
        "Pass a positive int that divides the batch size, or None for no ghost batches.",
    ),
    "ghost order": (
        lambda: Ghost(2, "blocks"),
        ValueError,
        "Ghost(order='blocks') was asked for. There is no such choice. "
        "Pass one of 'interleaved', 'contiguous'.",
    ),
}
RECORDS = {
    "renorm": (lambda: Options(renorm=True), "Options(renorm=True) was asked for", "batchnorm.Renorm()"),
    "ghost": (lambda: Options(ghost=8), "Options(ghost=8) was asked for", "batchnorm.Ghost(32)"),
    "axes": (lambda: Options(axes=1), "Options(axes=1) was asked for", "Pass a tuple of ints"),
    "clip": (lambda: Renorm(clip={"rmax": 3}), "Renorm(clip={'rmax': 3}) was asked for", "batchnorm.Clip("),
    "no clip": (lambda: Renorm(clip=None), "Renorm(clip=None) was asked for", "batchnorm.Clip("),
    "bound": (lambda: Clip(rmax="3"), "Clip(rmax='3') was asked for", "Pass a number such as 3.0"),
    "epsilon": (lambda: Options(epsilon="a"), "Options(epsilon='a') was asked for", "such as 1e-3"),
    "no epsilon": (lambda: Options(epsilon=None), "Options(epsilon=None) was asked for", "such as 1e-3"),
}


@pytest.mark.parametrize("name", RECORDS)
def test_values_of_another_kind_are_refused_by_the_field_they_were_given_for(name: str) -> None:
    make, asked, remedy = RECORDS[name]
    with pytest.raises(TypeError, match=re.escape(asked)) as caught:
        make()
    assert remedy in str(caught.value)


@pytest.mark.parametrize("field", ["fused", "debias_mean", "synchronized", "with_gamma", "with_beta"])
def test_switches_are_booleans(field: str) -> None:
    with pytest.raises(ValueError, match=rf"Options\({field}='no'\) was asked for"):
        Options(**{field: "no"})
    assert getattr(Options(**{field: False}), field) is False


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_are_refused_at_construction(name: str) -> None:
    make, error, message = WRONG[name]
    with pytest.raises(error, match=f"^{re.escape(message)}$") as caught:
        make()
    assert caught.type is error


def test_defaults_are_those_of_the_historical_layers() -> None:
    assert dataclasses.asdict(Options()) == {
        "axes": (-1,),
        "decay": 0.99,
        "epsilon": 1e-3,
        "with_gamma": True,
        "with_beta": True,
        "variance": "population",
        "renorm": None,
        "ghost": None,
        "debias_mean": False,
        "synchronized": False,
        "fused": None,
        "activation": None,
    }
    assert dataclasses.asdict(Renorm()) == {
        "clip": {"rmin": None, "rmax": None, "dmax": None},
        "decay": 0.99,
        "form": "current",
    }
    assert Ghost(4) == Ghost(4, "interleaved")


@pytest.mark.parametrize(
    ("record", "field"),
    [
        (record, field.name)
        for record in (Options(), Renorm(), Ghost(2), Clip())
        for field in dataclasses.fields(record)
    ],
)
def test_records_are_frozen(record: object, field: str) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(record, field, 1)


def test_replacing_a_field_checks_it_again() -> None:
    with pytest.raises(ValueError, match="cannot be negative"):
        dataclasses.replace(Options(), epsilon=-1.0)
    with pytest.raises(ValueError, match="were asked for together"):
        dataclasses.replace(Options(renorm=Renorm()), variance="sample")


def test_what_is_at_the_edge_is_accepted() -> None:
    options = Options(axes=(-1, 0, 7), epsilon=0.0, decay=0.0, ghost=None)
    assert (options.axes, options.epsilon, options.decay) == ((-1, 0, 7), 0.0, 0.0)
    assert Ghost(1).size == 1


def test_a_schedule_may_drive_decays_and_bounds() -> None:
    # An array decides no truth value, so no check may ask for one.
    several = np.array([0.9, 0.5])
    assert Options(decay=several).decay is several
    assert Renorm(decay=several, clip=Clip(rmax=several)).clip.rmax is several


def test_equal_options_are_one_key() -> None:
    made = [Options(renorm=Renorm(Clip(rmax=2.0)), axes=(1,)) for _ in range(2)]
    assert len({*made, Options(renorm=Renorm(Clip(rmax=3.0)), axes=(1,))}) == 2


def test_the_repr_rebuilds_the_record() -> None:
    options = Options(
        (1, 2), renorm=Renorm(Clip(0.5, 2.0, 1.0), 0.9, "debiased"), ghost=Ghost(3, "contiguous")
    )
    assert eval(repr(options)) == options
