"""What all APIs read in the same way: bounds, adjustments, weights, axes."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from batchnorm._faces.adjustment import call_adjustment, check_adjustment, check_dtype
from batchnorm._faces.axes import axes_of, read_axis, read_size
from batchnorm._faces.clip import check_bounds, read_clip
from batchnorm._faces.switches import check_switches
from batchnorm._faces.weights import FIRST_AXES, check_fit, multiply
from batchnorm.options import Clip


def test_bounds_become_a_record_and_none_is_no_bound() -> None:
    assert read_clip(None) == read_clip({}) == Clip()
    assert read_clip({"dmax": "5", "rmin": None}, float) == Clip(dmax=5.0)


def test_unknown_bounds_are_all_named() -> None:
    with pytest.raises(ValueError, match=r"invalid keys \['max', 'min'\]\. Use any of rmin, rmax, dmax\.$"):
        read_clip({"rmax": 1, "min": 0, "max": 2})


def test_bounds_contradict_each_other_only_where_they_are_known() -> None:
    for clip in (Clip(1, 1, 0), Clip(rmax=-1), Clip(rmin=math.inf)):
        assert check_bounds(clip) is clip
    for clip in (Clip(rmin=2, rmax=np.float32(1)), Clip(dmax=-0.5)):
        with pytest.raises(ValueError, match=r"renorm_clipping with (rmin=2 and rmax=|dmax=-0.5 was)"):
            check_bounds(clip)
        assert check_bounds(clip, lambda bound: False) is clip
    assert check_bounds(Clip(rmin=np.array(2), rmax=np.array(1))).rmin == 2


def test_an_adjustment_is_called_with_the_shape_and_converted() -> None:
    seen: list[object] = []
    scale, bias = call_adjustment(
        lambda shape: seen.append(shape) or [np.ones((4, 1)), 2], (4, 3), 2, np.asarray
    )
    assert seen == [(4, 3)]
    assert scale.shape == (4, 1)
    assert bias == 2


@pytest.mark.parametrize(
    ("result", "error", "text"),
    [
        (3, TypeError, "returned 3. It takes a factor and an offset"),
        ((1, 2, 3), TypeError, "returned .1, 2, 3."),
        ((1, None), ValueError, "returned None"),
        (
            (1, np.ones((1, 1, 3))),
            ValueError,
            "a tensor of rank 3. It must broadcast to the input, which has rank 2",
        ),
    ],
)
def test_an_adjustment_that_cannot_be_applied_is_refused(result, error, text) -> None:
    with pytest.raises(error, match=text):
        call_adjustment(lambda shape: result, (4, 3), 2, np.asarray)


def test_an_adjustment_of_unknown_rank_is_left_to_the_run() -> None:
    unknown = SimpleNamespace(shape=SimpleNamespace(rank=None))
    assert call_adjustment(lambda shape: (unknown, unknown), (4, 3), 2, lambda part: part) == (
        unknown,
        unknown,
    )


def test_an_adjustment_is_a_function_and_its_tensors_have_the_statistics_dtype() -> None:
    check_adjustment(None)
    check_adjustment(len)
    check_dtype("float32", "float32")
    with pytest.raises(TypeError, match="adjustment=2 was asked for"):
        check_adjustment(2)
    with pytest.raises(TypeError, match=r"a tensor of float64\. The statistics are float32"):
        check_dtype("float64", "float32")


@pytest.mark.parametrize(
    ("given", "places", "full"),
    [
        ((4,), (0, 1, 2), (4, 1, 1)),
        ((4, 1), (0, 2), (4, 1, 1)),
        ((5,), (2,), (1, 1, 5)),
        ((None, 3), (0, 1, 2), (None, 3, 1)),
    ],
)
def test_axes_of_weights_stand_for_places_in_the_input(given, places, full) -> None:
    assert check_fit("A weight", given, (4, 3, 5), places, FIRST_AXES) == full


@pytest.mark.parametrize(
    ("given", "places", "all_places"),
    [((), (0, 1), False), ((3,), (0, 1), False), ((4, 3, 5), (0, 1), False), ((4,), (0, 1), True)],
)
def test_weights_that_do_not_fit_are_refused(given, places, all_places) -> None:
    with pytest.raises(
        ValueError, match=r"^A weight of shape \(.*\) came with an input of shape \(4, 3, 5\)\. "
    ):
        check_fit("A weight", given, (4, 3, 5), places, FIRST_AXES, all_places=all_places)


def test_a_mask_and_weights_are_multiplied_where_both_are_given() -> None:
    assert multiply(None, None) is None
    assert multiply(2, None) == multiply(None, 2) == 2
    assert multiply(2, 3) == 6


def test_axes_are_read_as_written() -> None:
    assert read_axis(np.int64(2)) == 2
    assert read_axis([3, -1]) == (3, -1)
    assert read_axis([]) == ()
    assert read_axis(range(2), sequences=(range,)) == (0, 1)
    assert axes_of(2) == (2,)
    assert axes_of([2, 1]) == (2, 1)
    for axis in ("c", 1.0, None, [1, "c"], range(2)):
        with pytest.raises(
            TypeError, match=r"An axis is named by an int, and .* is a (str|float|NoneType|range)"
        ):
            read_axis(axis)


def test_sizes_of_ghost_batches_are_left_for_their_record_to_refuse() -> None:
    assert type(read_size(np.int64(8))) is int
    for size in (None, 2.5, True):
        assert read_size(size) is size


@pytest.mark.parametrize("value", [True, False, None, 0, 1, np.True_])
def test_switches_are_on_or_off(value) -> None:
    check_switches(renorm=value)


@pytest.mark.parametrize("value", ["no", "", b"1", 2, -1, 0.5])
def test_what_is_no_switch_is_refused_by_name(value) -> None:
    with pytest.raises(TypeError, match=r"zero_debias=.* was given\..*Pass True or False\.$"):
        check_switches(renorm=True, zero_debias=value)
