"""Errors about an option name the argument that the user wrote, not the core's field."""

import importlib
import re
from typing import Any

import pytest

from batchnorm._faces.names import reworded

OF_OLD = "It is the share of the old value that a moving average keeps, so it lies between 0 and 1."
OF_NEW = "It is the share of the new value in a moving average, so it lies between 0 and 1."
ORDER = ({"virtual_batch_size": 2, "ghost_order": "x"}, "ghost_order='x' was asked for")
# module, class: arguments before ours, and what each mistake is called.
FACES: dict[str, tuple[tuple[Any, ...], list[tuple[dict[str, Any], str]]]] = {
    "torch BatchNorm1d": (
        (3,),
        [
            ORDER,
            ({"eps": -1.0}, "eps=-1.0 was asked for"),
            ({"eps": float("nan")}, "eps=nan was asked for"),
            ({"momentum": 2.0}, f"momentum=2.0 was asked for. {OF_NEW} Pass a number such as 0.1."),
            ({"momentum": "a"}, "momentum='a' was asked for"),
            ({"axis": "1"}, "axis='1' was asked for"),
            ({"axis": (1, 1)}, "axis=(1, 1) was asked for"),
            ({"variance": "x"}, "variance='x' was asked for"),
            ({"renorm_momentum": -1}, f"renorm_momentum=-1 was asked for. {OF_NEW}"),
            ({"renorm": True, "renorm_form": "x"}, "renorm_form='x' was asked for"),
            ({"renorm": True, "renorm_clipping": {"rmax": "x"}}, "renorm_clipping['rmax']='x' was asked for"),
            ({"virtual_batch_size": 2, "ghost_remainder": "x"}, "ghost_remainder='x' was asked for"),
            (
                {"virtual_batch_size": 2, "ghost_averages": "group", "zero_debias": True},
                "Use ghost_averages='step'",
            ),
        ],
    ),
    "keras.layers BatchNormalization": (
        (),
        [
            ORDER,
            ({"epsilon": -1.0}, "epsilon=-1.0 was asked for"),
            ({"epsilon": "x"}, "epsilon='x' was asked for"),
            ({"momentum": 9}, f"momentum=9.0 was asked for. {OF_OLD} Pass a number such as 0.99."),
            ({"momentum": "a"}, "momentum='a' was asked for. It is the share of the old value"),
            ({"renorm_momentum": -1}, f"renorm_momentum=-1.0 was asked for. {OF_OLD}"),
            ({"variance": "x"}, "variance='x' was asked for"),
            ({"axis": (1, 1)}, "axis=(1, 1) was asked for"),
        ],
    ),
    "flax BatchNorm": (
        (3,),
        [
            ORDER,
            ({"epsilon": -1.0}, "epsilon=-1.0 was asked for"),
            ({"variance": "x"}, "variance='x' was asked for"),
            ({"momentum": 9}, f"momentum=9 was asked for. {OF_OLD} Pass a number such as 0.99."),
            ({"momentum": "a"}, "momentum='a' was asked for. It is the share of the old value"),
            ({"renorm_momentum": -1}, f"renorm_momentum=-1 was asked for. {OF_OLD}"),
        ],
    ),
    "compat.v1.layers BatchNormalization": (
        (),
        [
            ORDER,
            ({"epsilon": -1.0}, "epsilon=-1.0 was asked for"),
            ({"momentum": 9}, f"momentum=9 was asked for. {OF_OLD} Pass a number such as 0.99."),
            ({"renorm": True, "renorm_momentum": 9}, "renorm_momentum=9 was asked for"),
        ],
    ),
}
NEEDS = {"torch": ["torch"], "keras": ["keras"], "flax": ["jax", "flax"], "compat": ["tensorflow"]}


@pytest.mark.parametrize("face", FACES)
def test_an_error_names_the_argument(face: str) -> None:
    module, name = face.split()
    for needed in NEEDS[module.split(".")[0]]:
        pytest.importorskip(needed)
    layer = getattr(importlib.import_module(f"batchnorm.{module}"), name)
    before, mistakes = FACES[face]
    if module == "flax":
        rngs = importlib.import_module("flax.nnx").Rngs(0)
        mistakes = [({**given, "rngs": rngs}, message) for given, message in mistakes]
    for given, message in mistakes:
        with pytest.raises((TypeError, ValueError), match=re.escape(message)):
            layer(*before, **given)


def test_contribs_errors_and_warnings_name_its_arguments() -> None:
    tf = pytest.importorskip("tensorflow")
    from batchnorm.contrib.layers import batch_norm

    with tf.Graph().as_default():
        x = tf.ones([4, 3])
        for given, message in (
            ({"decay": 9}, f"decay=9 was asked for. {OF_OLD} Pass a number such as 0.99."),
            ({"epsilon": -1.0}, "epsilon=-1.0 was asked for"),
            ({"renorm": True, "renorm_decay": 9}, "renorm_decay=9 was asked for"),
            ({"activation_fn": "relu"}, "activation_fn='relu' was asked for"),
            ({"fused": "no"}, "fused='no' was given"),
        ):
            with pytest.raises((TypeError, ValueError), match=re.escape(message)):
                batch_norm(x, **given)
            assert not tf.compat.v1.global_variables()
        with pytest.warns(UserWarning, match="param_initializers was given 'gama'") as caught:
            batch_norm(x, param_initializers={"gama": tf.compat.v1.ones_initializer()})
        # The warning points to this line of the program.
        assert caught[0].filename == __file__


def test_a_schedule_of_clipping_takes_numbers() -> None:
    pytest.importorskip("torch")
    from batchnorm.torch import clipping_schedule

    with pytest.raises(TypeError, match=re.escape("clipping_schedule(rmax='x') was asked for")):
        clipping_schedule(rmax="x")  # pyright: ignore[reportArgumentType]


def test_values_with_parentheses_and_unknown_fields() -> None:
    error = ValueError("Options(axes=('1', 2)) was asked for. Use Ghost(averages='step') or Clip(rmax=3.0)")
    names = {"Options.axes": "axis", "Ghost.averages": "ghost_averages"}
    assert str(reworded(error, names)) == (
        "axis=('1', 2) was asked for. Use ghost_averages='step' or Clip(rmax=3.0)"
    )
