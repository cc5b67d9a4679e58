"""Private names of frameworks: a row touches each and says which behavior depends on it.

Only files called private.py reach them. When a row fails after a framework's release, that behavior needs repair.
"""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import batchnorm
import unit.private_tensorflow  # adds its rows
import unit.private_torch  # noqa: F401
from batchnorm._require import private_names
from unit.private_rows import ROWS, Row, touches

ROOT = Path(batchnorm.__file__).parent
MODULES = {
    "tensorflow": "batchnorm._engines.tensorflow.private",
    "keras": "batchnorm.keras.private",
    "jax": "batchnorm._engines.jax.private",
    "flax": "batchnorm.flax.private",
    "torch": "batchnorm._engines.torch.private",
}


# Keras 3


@touches(
    "keras",
    "in_stateless_scope",
    "on PyTorch, kernels write the moving statistics unless a call is stateless",
)
def stateless(private: Any) -> None:
    import keras

    assert "stateless_scope" in private.in_stateless_scope.__module__  # not what stands in for it
    assert not private.in_stateless_scope()
    with keras.StatelessScope():
        assert private.in_stateless_scope()


@touches("keras", "loads_whole_h5", "whole models in .h5 whose layers have several axes")
def whole_h5(private: Any) -> None:
    from keras.src.legacy.saving.saving_options import keras_option_scope

    assert not private.loads_whole_h5()
    with keras_option_scope(use_legacy_config=True):
        assert private.loads_whole_h5()


@touches(
    "keras",
    "held open_for_changes take_up track_layer",
    "decorated Keras 3 layers take up TensorFlow 1's variables",
)
def taking_up(private: Any) -> None:
    import keras

    layer, inner = keras.layers.Layer(), keras.layers.Dense(1)
    layer.built = True
    variable = keras.Variable(1.0, name="late")
    assert private.held(variable) is variable.value
    layer._tracker.lock()
    with private.open_for_changes(layer):
        private.track_layer(layer, inner)
        private.take_up(layer, variable)
        private.take_up(layer, keras.Variable(1.0, name="early"))
    assert layer._tracker.locked
    assert [each.name for each in layer.weights] == ["early", "late"]
    assert layer._layers == [inner]
    # what the layer's two classes override, or set
    assert callable(keras.Variable._initialize_with_initializer)
    assert callable(keras.layers.Layer._get_own_losses)
    assert variable._path == "late"


@touches("keras", "inner_layers is_functional mask_of", "convert: which models and layers it takes")
def converting(private: Any) -> None:
    import keras

    x = keras.Input((3, 2))
    y = keras.layers.Masking()(x)
    assert private.is_functional(keras.Model(x, y))
    assert not private.is_functional(keras.Sequential())
    assert private.mask_of(x) is None
    assert private.mask_of(y) is not None
    inner = keras.layers.Dense(2)
    assert private.inner_layers(keras.layers.TimeDistributed(inner)) == [inner]


# JAX


def primitive(private: Any, name: str) -> Any:
    """A primitive that doubles."""
    from jax.extend.core import Primitive

    made = Primitive(name)
    made.multiple_results = True
    made.def_abstract_eval(lambda x: [x])
    private.register_lowering(made, private.lower_plainly(lambda x: [2.0 * x]))
    return made


@touches(
    "jax",
    "lower_plainly register_lowering is_exported",
    "kernels on the CPU, plain operations in exported programs",
)
def lowering(private: Any) -> None:
    import jax

    twice, seen = primitive(private, "lowered"), list[bool]()

    def on_cpu(context: Any, x: Any) -> Any:
        seen.append(private.is_exported(context))
        return private.lower_plainly(lambda x: [3.0 * x])(context, x)

    private.register_lowering(twice, on_cpu, platform="cpu")
    function = jax.jit(lambda x: twice.bind(x)[0])
    on_another = function.trace(1.0).lower(lowering_platforms=("cuda",))
    assert "2.0" in on_another.as_text()
    assert seen == []
    assert float(function(1.0)) == 3.0
    jax.export.export(function, platforms=["cpu"])(1.0)
    assert seen == [False, True]


@touches(
    "jax",
    "instantiate_zeros is_undefined_primal primitive_jvps primitive_transposes",
    "derivatives of passes on the kernels",
)
def derivatives(private: Any) -> None:
    import jax

    twice = primitive(private, "derived")

    def push(primals: Any, moved: Any) -> Any:
        return twice.bind(*primals), twice.bind(*map(private.instantiate_zeros, moved))

    def transpose(cotangents: Any, x: Any) -> Any:
        assert private.is_undefined_primal(x)
        assert not private.is_undefined_primal(cotangents[0])
        return [5.0 * private.instantiate_zeros(cotangents[0])]

    private.primitive_jvps[twice] = push
    private.primitive_transposes[twice] = transpose
    function = jax.jit(lambda x: twice.bind(x)[0])
    assert float(jax.jvp(function, (1.0,), (3.0,))[1]) == 6.0
    assert float(jax.grad(function)(1.0)) == 5.0


@touches("jax", "primitive_batchers", "jax.vmap over passes on the kernels")
def batching(private: Any) -> None:
    import jax
    import jax.numpy as jnp

    twice = primitive(private, "mapped")
    private.primitive_batchers[twice] = lambda arrays, axes: (twice.bind(*arrays), axes)
    assert jax.jit(jax.vmap(lambda x: twice.bind(x)[0]))(jnp.ones(3)).tolist() == [2.0] * 3


@touches("jax", "varying_axes", "no kernels, and gradients that are summed, inside jax.shard_map")
def varying(private: Any) -> None:
    import jax
    import jax.numpy as jnp

    seen: list[Any] = []

    def look(x: Any, shared: Any) -> Any:
        kinds = jax.typeof(x), jax.eval_shape(jnp.negative, x), jax.typeof(shared)
        seen.extend(map(private.varying_axes, kinds))
        return x + shared

    mesh, spec = jax.make_mesh((1,), ("devices",), (jax.sharding.AxisType.Auto,)), jax.sharding.PartitionSpec
    jax.shard_map(look, mesh=mesh, in_specs=(spec("devices"), spec()), out_specs=spec("devices"))(
        jnp.ones(2), jnp.ones(1)
    )
    assert seen == [{"devices"}, {"devices"}, set()]


# Flax


@touches("flax", "canonicalize_dtype promote_dtype", "dtypes as flax.nnx.BatchNorm has them")
def dtypes(private: Any) -> None:
    import jax.numpy as jnp
    from flax import nnx

    given = jnp.ones(1, jnp.bfloat16), None, jnp.ones(1, jnp.float32)
    assert private.canonicalize_dtype(*given, dtype=None) == jnp.float32
    assert [each if each is None else each.dtype for each in private.promote_dtype(given)] == [
        jnp.float32,
        None,
        jnp.float32,
    ]
    assert (
        inspect.signature(nnx.BatchNorm.__init__).parameters["promote_dtype"].default is private.promote_dtype
    )


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.framework}: {row.behavior}" for row in ROWS])
def test_private_names_work(row: Row, request: pytest.FixtureRequest) -> None:
    pytest.importorskip(row.framework)
    private = importlib.import_module(MODULES[row.framework])
    wanted = list(inspect.signature(row.touch).parameters)[1:]
    row.touch(private, *map(request.getfixturevalue, wanted))


@pytest.mark.parametrize("framework", MODULES)
def test_every_private_name_has_a_row(framework: str) -> None:
    pytest.importorskip(framework)
    touched = [name for row in ROWS if row.framework == framework for name in row.names]
    assert sorted(touched) == sorted(importlib.import_module(MODULES[framework]).__all__)


# Keras 2, which TensorFlow chooses once per process: the v1 layer is a layer of its models.
KERAS_2 = """
import tensorflow as tf
from tf_keras.src.engine.base_layer_utils import call_context
from batchnorm.compat.v1 import private

for name in ("_is_legacy_layer", "_set_scope", "_maybe_build", "_set_dtype_policy"):
    assert hasattr(private.Layer.__base__, name), name

class Layer(private.Layer):
    def call(self, inputs, training=False):
        assert call_context().in_call
        assert (self._scope.name, self._name) == ("named", "named")
        return inputs

with tf.Graph().as_default():
    layer = Layer(name="named")
    layer(tf.ones([1]))
    assert not layer._use_resource_variables
    inputs = tf.keras.Input([1])
    assert hasattr(inputs, "_keras_history")
    tf.keras.Model(inputs, layer(inputs))
    assert layer._use_resource_variables
assert private.InputSpec is tf.keras.layers.InputSpec
"""


def test_keras_2_has_the_base_class_of_v1_layers() -> None:
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf_keras")
    env = os.environ | {"TF_USE_LEGACY_KERAS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", KERAS_2], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


# Where they are reached.

MODULE = re.compile(
    r"tensorflow\.(python|core)\b|\b__internal__|keras\.src|flax\.nnx\.nn|jax\._src|jax\.interpreters|jaxlib|torch\._C|"
    r"lowering_parameters|manual_axis_type|_add_variable_with_custom_getter|_track_variable"
)
# Methods of named tuples; the mark that tf_slim's `add_arg_scope` leaves on a function; and the methods that modules of
# PyTorch have for subclasses to override.
ALLOWED = {
    "_replace",
    "_fields",
    "_asdict",
    "_getframe",
    "_key_op",
    "_check_input_dim",
    "_load_from_state_dict",
    "_was",
}


def sources() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def others() -> list[Path]:
    return [file for file in sources() if file.name != "private.py"]


def attributes(tree: ast.AST) -> Iterator[str]:
    """The underscored attributes that a file asks of anything."""
    for node in ast.walk(tree):
        name = None
        if isinstance(node, ast.Attribute):
            name = node.attr
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = getattr(node.args[1], "value", None)
        if isinstance(name, str) and name.startswith("_") and not name.startswith("__"):
            yield name


def defined(tree: ast.AST) -> Iterator[str]:
    """The attributes that a file's own classes have."""
    for node in ast.walk(tree):
        for each in node.body if isinstance(node, ast.ClassDef) else ():
            targets = each.targets if isinstance(each, ast.Assign) else [getattr(each, "target", each)]
            yield from (
                name for target in targets if (name := getattr(target, "id", getattr(target, "name", "")))
            )
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            yield node.attr


def test_other_files_use_no_private_modules() -> None:
    found = {
        f"{file.relative_to(ROOT)}: {match[0]}"
        for file in others()
        for match in MODULE.finditer(file.read_text(encoding="utf-8"))
    }
    assert found == set()


def test_other_files_use_no_private_attributes_but_our_own() -> None:
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in sources()}
    own = ALLOWED.union(*map(defined, trees.values()))
    found = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in others()
        for name in attributes(trees[file])
        if name not in own
    }
    assert found == set()


def test_a_release_without_a_name_says_so() -> None:
    with pytest.raises(ImportError) as caught, private_names("Python", "3", "test"):
        from os import no_such_name  # type: ignore  # noqa: F401
    assert str(caught.value).startswith("Python 3 was imported. It lacks something that is not public")
    assert "no_such_name" in str(caught.value)
    assert str(caught.value).endswith(
        "Run: pip install 'batchnorm[test]', which brings a release that has it."
    )
