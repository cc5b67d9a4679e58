"""What the pure functions refuse before they compute."""

import numpy as np
import pytest

import batchnorm
from batchnorm import Options

X = np.ones((4, 3), "float32")
OPTIONS = Options()
PARAMS, STATE = batchnorm.init(OPTIONS, X.shape)


def step(**changed):
    given = {"x": X, "params": PARAMS, "state": STATE, "options": OPTIONS} | changed
    return batchnorm.batch_norm(**given, training=True)


REFUSED = {
    "no options": (
        lambda: step(options={"decay": 0.9}),
        "options={'decay': 0.9} was given.*batchnorm.Options",
    ),
    "options to explain": (lambda: batchnorm.explain(X, None), "options=None was given"),
    "options to init": (lambda: batchnorm.init((4, 3), OPTIONS), r"options=\(4, 3\) was given"),
    "a size for a shape": (lambda: batchnorm.init(OPTIONS, 8), "shape=8 was given"),
    "no parameters": (lambda: step(params=None), "A parameter record of type NoneType.*batchnorm.init"),
    "no state": (lambda: step(state=[]), "A state record of type list"),
    "half an adjustment": (lambda: step(adjustment=3), r"adjustment=3 was given.*\(scale, bias\)"),
    "integers": (lambda: step(x=X.astype("int64")), "dtype int64.*Only floating-point input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arguments_of_another_kind_are_refused_by_name(name):
    call, message = REFUSED[name]
    with pytest.raises(TypeError, match=message):
        call()


def test_a_scalar_has_no_axes():
    with pytest.raises(ValueError, match="A scalar has no axes"):
        step(x=np.float32(3))
