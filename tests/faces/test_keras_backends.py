"""The Keras layer on TensorFlow, JAX and PyTorch: the same numbers, and files that go from one to the other."""

import textwrap
from pathlib import Path

import numpy as np
import pytest

import forked
from programs.keras_backend import OPTIONS, STOCK, data

pytestmark = [pytest.mark.needs("keras", "tensorflow", "jax", "torch"), pytest.mark.slow(3)]

BACKENDS = ("tensorflow", "jax", "torch")
PROGRAM = Path(__file__).parents[1] / "programs" / "keras_backend.py"


def run(backend, *arguments):
    done = forked.run(["keras"], *arguments, env={"KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Each backend trains and saves; each loads what all have saved."""
    folder = tmp_path_factory.mktemp("backends")
    for backend in BACKENDS:
        run(backend, PROGRAM, folder)
    for backend in BACKENDS:
        run(backend, PROGRAM, folder, "load")
    return folder


@pytest.fixture(scope="module")
def facts(folder):
    return {backend: dict(np.load(folder / backend / "facts.npz")) for backend in BACKENDS}


def tolerance(case):
    return {"bfloat16": 3e-2, "float64": 2e-6}.get(case, 2e-5)


@pytest.mark.parametrize("case", [*OPTIONS, "compiled", "eager", "weighted"])
@pytest.mark.parametrize("backend", BACKENDS[1:])
def test_training_gives_the_same_numbers_on_every_backend(facts, backend, case):
    names = [name for name in facts["tensorflow"] if name.startswith(f"{case}/")]
    assert len(names) >= 5
    for name in names:
        want = facts["tensorflow"][name]
        within = tolerance(case)
        np.testing.assert_allclose(facts[backend][name], want, rtol=within, atol=within, err_msg=name)


@pytest.mark.parametrize("case", STOCK)
@pytest.mark.parametrize("backend", BACKENDS)
def test_training_gives_the_numbers_of_the_stock_layer(facts, backend, case):
    names = [name for name in facts[backend] if name.startswith(f"{case}/")]
    assert len(names) >= 5
    for name in names:
        want = facts[backend][f"stock {name}"]
        np.testing.assert_allclose(facts[backend][name], want, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_statistics_of_layers_in_16_bits_have_32(facts, backend, dtype):
    found = {
        name.split()[-1]: value
        for name, value in facts[backend].items()
        if name.startswith(f"narrow/{dtype}")
    }
    x = (data()[0] * 300.0).reshape(-1, 3).astype(np.float64)
    assert str(found["statistics"]) == "float32"
    within = {"float16": 1e-3, "bfloat16": 1e-2}[dtype]  # the error from rounding the input
    np.testing.assert_allclose(found["moving_mean"], x.mean(0) / 2, rtol=within)
    np.testing.assert_allclose(found["moving_variance"], 0.5 + x.var(0) / 2, rtol=within)


@pytest.mark.parametrize("case", OPTIONS)
@pytest.mark.parametrize("reader", BACKENDS)
def test_a_saved_model_predicts_the_same_on_another_backend(folder, facts, reader, case):
    loaded = np.load(folder / f"{reader}-loads.npz")
    for writer in BACKENDS:
        want = facts[writer][f"{case}/predicts"]
        within = tolerance(case)
        np.testing.assert_allclose(loaded[f"{writer}/{case}"], want, rtol=within, atol=within, err_msg=writer)


def test_a_stateless_call_on_jax():
    """State in, state out: under jit and grad, and the layer keeps what it had."""
    program = """
        import jax, keras, numpy as np
        from batchnorm.keras.layers import BatchNormalization
        x = np.random.default_rng(0).normal(1.0, 2.0, (8, 5)).astype("float32")
        layer = BatchNormalization(momentum=0.5, renorm=True, virtual_batch_size=4)
        layer.build(x.shape)
        trainable = [v.value for v in layer.trainable_variables]
        state = [v.value for v in layer.non_trainable_variables]

        @jax.jit
        def step(trainable, state, x):
            def loss(trainable):
                y, after = layer.stateless_call(trainable, state, x, training=True)
                return (y * np.arange(5.0)).sum(), (y, after)
            return jax.value_and_grad(loss, has_aux=True)(trainable)

        (_, (y, after)), gradients = step(trainable, state, x)
        assert all((a == v.value).all() for a, v in zip(state, layer.non_trainable_variables, strict=True))
        np.testing.assert_allclose(y, layer(x, training=True), rtol=1e-5, atol=1e-6)
        for new, variable in zip(after, layer.non_trainable_variables, strict=True):
            np.testing.assert_allclose(new, variable.value, rtol=1e-6)
        np.testing.assert_allclose(gradients[1].reshape(-1), 8 * np.arange(5.0), rtol=1e-5)
        assert any((a != b).any() for a, b in zip(state, after, strict=True))
        try:
            jax.jit(lambda training: layer(x, training=training))(True)
        except TypeError as error:
            print(error)
    """
    out = run("jax", "-c", textwrap.dedent(program))
    assert "On Keras' 'jax' backend the choice must be known while the call is traced" in out


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_brings_no_other_engine(folder, backend):
    """After all that the program does: training, saving, every option."""
    engines = (folder / backend / "engines.txt").read_text().split()
    assert set(engines) & set(BACKENDS) == {backend}
