"""arg_scope: defaults by scope, ours and tf_slim's, and batch_norm as other layers' normalizer."""

import copy
import inspect
import pickle
import subprocess
import sys
import textwrap
import threading
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import tensorflow as tf

from batchnorm.contrib import framework
from batchnorm.contrib.framework import add_arg_scope, arg_scope
from batchnorm.contrib.layers import batch_norm
from faces.contrib_graph import graph, names
from originals.sides import environment

pytestmark = pytest.mark.needs("tensorflow", "tf_slim")

v1 = tf.compat.v1


@add_arg_scope
def first(*args, **kwargs):
    """What it was called with."""
    return args, kwargs


@add_arg_scope
def second(x, a=1, *, b=2):
    return x, a, b


class Counter:
    @add_arg_scope
    def step(self, by=1):
        return by


def bare(x, a=1):
    return x, a


def test_scopes_add_to_each_other_and_the_call_has_the_last_word():
    with arg_scope([first, second], a=3):
        with arg_scope((second,), b=4):
            assert second(0) == (0, 3, 4)
            assert second(0, b=5) == (0, 3, 5)
            assert second(0, 6) == (0, 6, 4)
        assert second(0) == (0, 3, 2)
        assert first(7) == ((7,), {"a": 3})
    assert second(0) == (0, 1, 2)
    assert framework.current_arg_scope() == {}


def test_a_scope_can_be_used_again_and_an_empty_one_clears():
    with arg_scope([second], a=3) as scope:
        pass
    with arg_scope([second], a=8, b=9), arg_scope(scope):
        assert second(0) == (0, 3, 2)
        with arg_scope({}):
            assert second(0) == (0, 1, 2)
        with arg_scope([]) as same:
            assert same == scope == {framework.arg_scope_func_key(second): {"a": 3}}
            assert framework.current_arg_scope() == scope


def test_a_scope_ends_with_its_block_even_by_an_error():
    with pytest.raises(KeyError), arg_scope([second], a=3):
        raise KeyError
    assert second(0) == (0, 1, 2)


def test_a_thread_has_scopes_of_its_own():
    seen = []
    with arg_scope([second], a=3):
        thread = threading.Thread(target=lambda: seen.append(second(0)))
        thread.start()
        thread.join()
    assert seen == [(0, 1, 2)]


def test_methods_take_part():
    with arg_scope([Counter.step], by=5):
        assert Counter().step() == 5


def test_a_decorated_function_is_still_itself():
    assert inspect.signature(second) == inspect.signature(second.__wrapped__)
    assert inspect.getdoc(first) == "What it was called with."
    assert (second.__name__, second.__module__) == ("second", __name__)
    assert pickle.loads(pickle.dumps(batch_norm)) is batch_norm
    assert copy.deepcopy({"normalizer_fn": batch_norm}) == {"normalizer_fn": batch_norm}


def test_what_a_scope_can_set():
    assert framework.arg_scoped_arguments(second) == ("a", "b")
    assert framework.arg_scoped_arguments(batch_norm)[:2] == ("decay", "center")
    assert framework.has_arg_scope(second)
    assert not framework.has_arg_scope(bare)


def test_decorating_twice_changes_nothing():
    again = add_arg_scope(second)
    with arg_scope([second], a=3):
        assert again(0) == (0, 3, 2)


@pytest.mark.parametrize(
    ("given", "kwargs", "error", "message"),
    [
        ([bare], {"a": 1}, ValueError, r"bare.*not decorated.*tf_slim\.arg_scope"),
        (second, {"a": 1}, TypeError, "list or tuple"),
        ({}, {"a": 1}, ValueError, "re-using a scope.*must be empty"),
    ],
    ids=["undecorated", "no list", "scope and arguments"],
)
def test_scopes_refuse(given, kwargs, error, message):
    with pytest.raises(error, match=message), arg_scope(given, **kwargs):
        pass
    with pytest.raises(ValueError, match="not decorated"):
        framework.arg_scoped_arguments(bare)


def test_an_argument_that_the_function_does_not_take_is_an_error_of_the_call():
    with arg_scope([second], c=1), pytest.raises(TypeError, match="'c'"):
        second(0)


# --- batch_norm ---


def test_batch_norm_under_a_scope():
    with graph(), arg_scope([batch_norm], scale=True, center=False, updates_collections="my"):
        batch_norm(tf.ones([4, 3]))
        batch_norm(tf.ones([4, 3]), scale=False, center=True)
        assert names(v1.GraphKeys.TRAINABLE_VARIABLES) == ["BatchNorm/gamma", "BatchNorm_1/beta"]
        assert len(names("my")) == 4


def test_batch_norm_as_anybodys_normalizer():
    def dense(x, units, normalizer_fn=None, normalizer_params=None, scope="dense"):
        with v1.variable_scope(scope):
            y = x @ v1.get_variable("weights", [x.shape[-1], units])
            return normalizer_fn(y, **(normalizer_params or {}))

    with graph():
        y = dense(tf.ones([4, 3]), 5, batch_norm, {"scale": True, "is_training": False})
        assert y.shape == (4, 5)
        expected = [
            "weights",
            *(f"BatchNorm/{n}" for n in ("beta", "gamma", "moving_mean", "moving_variance")),
        ]
        assert names(v1.GraphKeys.GLOBAL_VARIABLES) == [f"dense/{name}" for name in expected]


# --- tf_slim ---

SLIM = """
import sys
from originals.sides import Api
api = Api("ours", "tf1")
tf, v1 = api.tf, api.v1
from batchnorm.contrib.framework import arg_scope, current_arg_scope
from batchnorm.contrib.layers import batch_norm
"""
SLIM_FIRST = SLIM.replace("tf, v1 =", "slim = api.slim; tf, v1 =")
SLIM_LAST = SLIM + "slim = api.slim\n"
# The number of updates, which shows whether it trains, and the parameters.
TAIL = """
print(len(v1.get_collection("update_ops")), *(v.op.name for v in v1.trainable_variables()))
"""
PROGRAMS = {
    "its scope": (
        """
        with slim.arg_scope([batch_norm], scale=True, center=False):
            batch_norm(tf.ones([4, 3]))
        """,
        "2 BatchNorm/gamma",
    ),
    "its scope around ours": (
        """
        with slim.arg_scope([batch_norm], scale=True, center=False):
            with arg_scope([batch_norm], center=True):
                batch_norm(tf.ones([4, 3]))
        """,
        "2 BatchNorm/beta BatchNorm/gamma",
    ),
    "its decorator": (
        """
        twice = slim.add_arg_scope(batch_norm)
        with slim.arg_scope([twice], scale=True):
            twice(tf.ones([4, 3]))
        with arg_scope([twice], center=False, scale=True):
            twice(tf.ones([4, 3]))
        """,
        "4 BatchNorm/beta BatchNorm/gamma BatchNorm_1/gamma",
    ),
    "its layers": (
        """
        params = dict(scale=True, decay=0.9)
        with slim.arg_scope([slim.conv2d, slim.fully_connected], normalizer_fn=batch_norm, normalizer_params=params):
            slim.fully_connected(slim.flatten(slim.conv2d(tf.ones([2, 4, 4, 3]), 5, 3)), 2)
        """,
        "4 Conv/weights Conv/BatchNorm/gamma Conv/BatchNorm/beta fully_connected/weights "
        "fully_connected/BatchNorm/beta fully_connected/BatchNorm/gamma",
    ),
    "its layers under both scopes": (
        """
        with slim.arg_scope([slim.conv2d], normalizer_fn=batch_norm), slim.arg_scope([batch_norm], center=False):
            with arg_scope([batch_norm], scale=True):
                slim.conv2d(tf.ones([2, 4, 4, 3]), 5, 3)
        """,
        "2 Conv/weights Conv/BatchNorm/gamma",
    ),
    "its scope for its own": (
        """
        with slim.arg_scope([slim.batch_norm], is_training=False, scale=True, center=False):
            batch_norm(tf.ones([4, 3]))
        """,
        "0 BatchNorm/gamma",
    ),
    "its scope for its own, by every name": (
        """
        inner, package = sys.modules["tf_slim.layers.layers"], sys.modules["tf_slim.layers"]
        with slim.arg_scope([inner.batch_norm], is_training=False), slim.arg_scope([package.batch_norm], scale=True):
            slim.fully_connected(tf.ones([2, 3]), 5, normalizer_fn=batch_norm, normalizer_params={"center": False})
        """,
        "0 fully_connected/weights fully_connected/BatchNorm/gamma",
    ),
    "the inner of its scopes": (
        """
        with slim.arg_scope([batch_norm], is_training=False, scale=True):
            with slim.arg_scope([slim.batch_norm], is_training=True, center=False):
                batch_norm(tf.ones([4, 3]))
                with slim.arg_scope([batch_norm], is_training=False):
                    batch_norm(tf.ones([4, 3]))
                    with slim.arg_scope([slim.batch_norm], scale=False, center=True):
                        batch_norm(tf.ones([4, 3]), is_training=True)
            batch_norm(tf.ones([4, 3]))
        """,
        "4 BatchNorm/gamma BatchNorm_1/gamma BatchNorm_2/beta BatchNorm_3/beta BatchNorm_3/gamma",
    ),
    "the inner of both kinds of scopes": (
        """
        with arg_scope([batch_norm], is_training=True, scale=True):
            with slim.arg_scope([slim.batch_norm], is_training=False):
                batch_norm(tf.ones([4, 3]), center=False)
                with arg_scope([batch_norm], scale=False):
                    batch_norm(tf.ones([4, 3]))
                    with arg_scope([batch_norm], is_training=True):
                        batch_norm(tf.ones([4, 3]))
            batch_norm(tf.ones([4, 3]))
        """,
        "4 BatchNorm/gamma BatchNorm_1/beta BatchNorm_2/beta BatchNorm_3/beta BatchNorm_3/gamma",
    ),
    "its scope, entered again": (
        """
        with slim.arg_scope([slim.batch_norm], is_training=False):
            with slim.arg_scope([batch_norm], scale=True) as kept:
                pass
        with slim.arg_scope([batch_norm], is_training=True, center=False), slim.arg_scope(kept):
            batch_norm(tf.ones([4, 3]))
        """,
        "0 BatchNorm/beta BatchNorm/gamma",
    ),
    "our scope, entered again inside its own": (
        """
        with arg_scope([batch_norm], scale=True) as kept:
            pass
        with slim.arg_scope([slim.batch_norm], scale=False, is_training=False), arg_scope(kept):
            batch_norm(tf.ones([4, 3]))
        """,
        "0 BatchNorm/beta BatchNorm/gamma",
    ),
    "what is in force": (
        """
        with slim.arg_scope([batch_norm], decay=0.5):
            assert slim.current_arg_scope() == {slim.arg_scope_func_key(slim.batch_norm): {"decay": 0.5}}
            assert current_arg_scope() == {}
            with arg_scope([batch_norm], decay=0.6):
                assert list(current_arg_scope().values()) == [{"decay": 0.6}]
        assert slim.has_arg_scope(batch_norm) and "renorm" in slim.arg_scoped_arguments(batch_norm)
        """,
        "0",
    ),
}
# Ours in place of tf_slim's own, under all its names or some of them.
PLACES = {
    "slim": ["tf_slim"],
    "slim.layers": ["tf_slim.layers"],
    "slim.layers.layers": ["tf_slim.layers.layers"],
    "all": ["tf_slim", "tf_slim.layers", "tf_slim.layers.layers"],
}
PLACED = """
own = slim.batch_norm
places = [sys.modules[name] for name in {places}]
for place in places:
    place.batch_norm = batch_norm
with slim.arg_scope([places[0].batch_norm], is_training=False):
    places[-1].batch_norm(tf.ones([4, 3]))
    with slim.arg_scope([own], scale=True):
        batch_norm(tf.ones([4, 3]))
with slim.arg_scope([own], is_training=False), slim.arg_scope([batch_norm], center=False, scale=True):
    slim.fully_connected(tf.ones([2, 3]), 5, normalizer_fn=places[0].batch_norm)
for place in places:
    place.batch_norm = own
"""
PROGRAMS |= {
    f"ours as that of {name}": (
        PLACED.format(places=places),
        "0 BatchNorm/beta BatchNorm_1/beta BatchNorm_1/gamma fully_connected/weights fully_connected/BatchNorm/gamma",
    )
    for name, places in PLACES.items()
}

NETWORK = """
from tf_slim.nets import resnet_utils, resnet_v1, resnet_v2
from batchnorm.contrib import layers as ours

places = [sys.modules[name] for name in {places}]
calls, own, choose_path = [], slim.batch_norm, ours.choose_path
ours.choose_path = lambda *given: calls.append(given) or choose_path(*given)
blocks = [resnet_{version}.resnet_{version}_block("block1", base_depth=2, num_units=1, stride=1)]
normalizers = {{}} if places else {{"normalizer_fn": batch_norm}}
for place in places:
    place.batch_norm = batch_norm
with slim.arg_scope(resnet_utils.resnet_arg_scope(batch_norm_decay=0.5)), slim.arg_scope([slim.conv2d], **normalizers):
    x = tf.ones([1, 8, 8, 3])
    resnet_{version}.resnet_{version}(x, blocks, is_training=False, include_root_block=False)
for place in places:
    place.batch_norm = own
ours.choose_path = choose_path
assert {{given.momentum for given, _ in calls}} == {{0.5}}
gammas = [v for v in v1.trainable_variables() if "gamma" in v.op.name]
print(len(calls), len(gammas))
v1.get_default_graph().clear_collection("trainable_variables")
"""
# Two of the second network's batch norms are not a convolution's normalizer.
PROGRAMS |= {
    "a network that normalizes by ours": (NETWORK.format(places=[], version="v1"), "4 4\n0"),
    "a network with ours in place": (NETWORK.format(places=PLACES["all"], version="v1"), "4 4\n0"),
    "another with ours in place": (NETWORK.format(places=PLACES["all"], version="v2"), "4 4\n0"),
}


@cache
def variables_by_program(head: str) -> list[str]:
    """All programs in one process, as importing TensorFlow takes longer than they do; each in a graph of its own."""
    each = (
        "with tf.Graph().as_default():\n"
        + textwrap.indent(textwrap.dedent(program) + TAIL, "    ")
        + "print('.')"
        for program, _ in PROGRAMS.values()
    )
    done = subprocess.run(
        [sys.executable, "-c", head + "\n".join(each)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env=environment("ours"),
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n.\n")[:-1]


@pytest.mark.parametrize("head", [SLIM_FIRST, SLIM_LAST], ids=["imported before", "imported after"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_tf_slim(name, head):
    assert find_spec("tf_slim"), "the test environment has tf_slim"
    found = dict(zip(PROGRAMS, variables_by_program(head), strict=True))
    assert found[name] == PROGRAMS[name][1]
