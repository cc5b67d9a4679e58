"""JAX's calls of the CPU kernels: where they go, where they do not, and that either way the numbers are right."""

import re
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import batchnorm
from batchnorm import Clip, Ghost, Options, Renorm
from batchnorm._engines.jax import dispatch
from batchnorm._kernels.jax import why_missing
from batchnorm.layout import plan_layout
from tolerances import assert_close

pytestmark = [pytest.mark.needs("jax"), pytest.mark.slow(1)]

needs_kernels = pytest.mark.skipif(why_missing() is not None, reason=str(why_missing()))

SHAPE = (6, 4, 3, 5)
PLAIN = Options()
OPTIONS = {
    "channels last": PLAIN,
    "channels first": Options((1,)),
    "two axes": Options((1, 3)),
    "no affine": Options(with_gamma=False, with_beta=False),
    "gamma only": Options(with_beta=False),
    "interleaved": Options(ghost=Ghost(2)),
    "contiguous": Options((1,), ghost=Ghost(3, "contiguous")),
    "renorm": Options(renorm=Renorm(Clip(rmax=3.0, dmax=5.0))),
    "renorm and ghosts": Options((1,), renorm=Renorm(), ghost=Ghost(3)),
}
WEIGHTS = ("unweighted", "weighted", "weighted by number")
WITHIN = {"float32": 2e-5, "float64": 1e-12, "bfloat16": 0.03, "float16": 4e-3}


@pytest.fixture(autouse=True)
def at_every_size(monkeypatch: pytest.MonkeyPatch):
    """The kernels take small inputs as well, but only from a certain size on do they win."""
    monkeypatch.setattr(dispatch, "LARGE_INPUT", 0)
    with jax.enable_x64(True):
        yield


def arrays(options: Options, dtype: str = "float32", weighted: str = "unweighted") -> Any:
    random = np.random.RandomState(0)
    x, dy = (jnp.asarray(random.randn(*SHAPE) + shift, dtype) for shift in (2.0, 0.0))
    params, state = batchnorm.init(options, SHAPE, like=x)
    params = {
        name: value + jnp.asarray(random.rand(*value.shape), value.dtype) for name, value in params.items()
    }
    weights = None
    if weighted != "unweighted":
        by_number = [
            1 if axis in {each % 4 for each in options.axes} else size for axis, size in enumerate(SHAPE)
        ]
        shape = (SHAPE[0], 1, 1, 1) if weighted == "weighted" else by_number
        weights = jnp.asarray(random.rand(*shape) * (random.rand(*shape) > 0.3), state["moving_mean"].dtype)
    return (x, params, weights), dy, state


def step_of(options: Options, state: Any) -> Callable[..., Any]:
    """y, the new state and the gradients."""

    def step(given: Any, dy: Any) -> Any:
        def forward(given: Any) -> Any:
            x, params, weights = given
            return batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)

        y, pull, after = jax.vjp(forward, given, has_aux=True)
        return y, after, pull(dy)

    return step


def targets(function: Any, *given: Any) -> list[str]:
    """The kernels that a compiled function calls, in the order of the calls."""
    return re.findall(r"custom_call @batchnorm_jax_(\w+)", jax.jit(function).lower(*given).as_text())


def agree(got: Any, want: Any, within: float) -> None:
    for mine, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        assert_close(mine, other, str(mine.dtype), "native against plain", within=within)


EACH = [
    *((name, weights, "float32") for name in OPTIONS for weights in WEIGHTS),
    *(
        (name, weights, dtype)
        for dtype in WITHIN
        for name in ("renorm", "interleaved")
        for weights in WEIGHTS[:2]
    ),
]


@needs_kernels
@pytest.mark.parametrize(("name", "weights", "dtype"), dict.fromkeys(EACH))
def test_steps(name: str, weights: str, dtype: str) -> None:
    options = OPTIONS[name]
    given, dy, state = arrays(options, dtype, weights)
    step = step_of(options, state)
    is_plain = weights == "unweighted"
    forward = ["train"] if is_plain and options.renorm is None else ["moments", "apply"]
    assert targets(step, given, dy) == forward + (["gradients"] if is_plain else ["grad_sums", "grad_input"])
    plain = step_of(replace(options, fused=False), state)
    got, want = (jax.jit(each)(given, dy) for each in (step, plain))
    agree(got, want, WITHIN[dtype])


@needs_kernels
def test_operation_by_operation() -> None:
    given, dy, state = arrays(PLAIN)
    want = step_of(replace(PLAIN, fused=False), state)(given, dy)
    agree(step_of(PLAIN, state)(given, dy), want, 2e-5)


@needs_kernels
@pytest.mark.parametrize(
    ("name", "weights"),
    [("channels last", "unweighted"), ("channels last", "weighted by number"), ("interleaved", "weighted")],
)
def test_forward_mode_and_second_order_are_the_plain_ones(name: str, weights: str) -> None:
    given, dy, state = arrays(OPTIONS[name], "float64", weights)

    def derivatives(options: Options) -> Callable[..., Any]:
        def loss(given: Any) -> Any:
            x, params, weights = given
            y, _ = batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)
            return jnp.sum(jnp.sin(y) * dy)

        moved = jax.tree.map(lambda value: jnp.cos(3 * value), given)

        def along(given: Any) -> Any:
            return jax.jvp(loss, (given,), (moved,))[1]

        return lambda given: (
            along(given),
            jax.grad(along)(given),
            jax.jvp(jax.grad(loss), (given,), (moved,)),
        )

    native_ones, plain_ones = (derivatives(replace(OPTIONS[name], fused=fused)) for fused in (None, False))
    assert targets(native_ones, given)
    got, want = (jax.jit(each)(given) for each in (native_ones, plain_ones))
    agree(got, want, 1e-11)


@needs_kernels
def test_inference_is_left_to_the_compiler() -> None:
    (x, params, _), _, state = arrays(PLAIN)

    def infer(x: Any) -> Any:
        return batchnorm.batch_norm(x, params, state, PLAIN, training=False)[0]

    assert not targets(infer, x)


@needs_kernels
@pytest.mark.parametrize("platforms", [["cpu"], ["cpu", "tpu", "cuda"]], ids=str)
def test_exported_programs_hold_standard_operations(platforms: list[str]) -> None:
    given, dy, state = arrays(PLAIN)
    step = step_of(PLAIN, state)
    assert targets(step, given, dy)
    exported = jax.export.export(jax.jit(step), platforms=platforms)(given, dy)
    assert "batchnorm" not in re.sub(r"loc\(.*", "", exported.mlir_module())
    agree(exported.call(given, dy), jax.jit(step)(given, dy), 2e-5)


@needs_kernels
def test_mapped_over_examples() -> None:
    """By plain operations, in which the mapped axis takes part."""
    (x, params, _), _, state = arrays(PLAIN)
    many = jnp.stack([x, 2 * x + 1])

    def step(x: Any) -> Any:
        return batchnorm.batch_norm(x, params, state, PLAIN, training=True)

    assert not targets(jax.vmap(step), many)
    ys, states = jax.jit(jax.vmap(step))(many)
    for index, each in enumerate(many):
        agree((ys[index], jax.tree.map(lambda a, i=index: a[i], states)), step(each), 2e-5)


@needs_kernels
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_a_mesh_of_one_device(kind: AxisType) -> None:
    given, dy, state = arrays(PLAIN)
    mesh = jax.make_mesh((1,), ("devices",), axis_types=(kind,))
    step = step_of(PLAIN, state)
    want = jax.jit(step)(given, dy)
    (x, params, _), spread = given, PartitionSpec("devices")
    placed = [jax.device_put(value, NamedSharding(mesh, spread)) for value in (x, dy)]
    agree(jax.jit(step)((placed[0], params, None), placed[1]), want, 2e-5)

    together, whole = replace(PLAIN, synchronized=True), PartitionSpec()

    def alone(x: Any) -> Any:
        return batchnorm.batch_norm(x, params, state, PLAIN, training=True)

    def joined(x: Any) -> Any:
        return batchnorm.batch_norm(x, params, state, together, training=True, axis_name="devices")

    for function, out in ((alone, spread), (joined, whole)):
        mapped = jax.shard_map(function, mesh=mesh, in_specs=spread, out_specs=(spread, out))
        agree(jax.jit(mapped)(placed[0]), want[:2], 2e-5)


@needs_kernels
def test_loops_and_threads() -> None:
    (x, params, _), _, state = arrays(PLAIN)

    def steps(x: Any) -> Any:
        def one(state: Any, shift: Any) -> Any:
            y, state = batchnorm.batch_norm(x + shift, params, state, PLAIN, training=True)
            return state, y

        return jax.lax.scan(one, state, jnp.arange(4, dtype=x.dtype))

    assert targets(steps, x) == ["train"]
    compiled = jax.jit(steps)
    want = compiled(x)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(compiled, [x] * 16):
            agree(got, want, 0.0)


@needs_kernels
def test_a_call_of_another_form_is_an_error_of_xla() -> None:
    x = jnp.ones((4, 2), jnp.float32)
    call = jax.ffi.ffi_call("batchnorm_jax_apply", jax.ShapeDtypeStruct(x.shape, x.dtype))
    with pytest.raises(jax.errors.JaxRuntimeError, match="another form"):
        call(x, recipe=np.zeros(10, np.int64))


DEVICES = """
import jax, jax.numpy as jnp, batchnorm
from batchnorm._engines.jax import dispatch
dispatch.LARGE_INPUT = 0
x = jnp.arange(24.0).reshape(6, 4)
params, state = batchnorm.init(batchnorm.Options(), x.shape, like=x)
step = jax.jit(lambda x: batchnorm.batch_norm(x, params, state, batchnorm.Options(), training=True)[0])
print("native" if "batchnorm_jax" in step.lower(x).as_text() else "plain", round(float(step(x).std()), 3))
"""


@needs_kernels
@pytest.mark.parametrize(
    ("flags", "kind"),
    [("--xla_force_host_platform_device_count=2", "plain"), ("--xla_cpu_multi_thread_eigen=false", "native")],
)
def test_several_devices_and_a_single_thread(flags: str, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DEVICES], env={"XLA_FLAGS": flags}, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == [kind, "1.0"], done.stderr[-3000:]


def test_why_not() -> None:
    def reason(
        shape: tuple[int, ...], axes: tuple[int, ...], dtype: str = "float32", weights: Any = None
    ) -> str | None:
        x = jnp.zeros(shape, dtype)
        return dispatch.unsupported_reason(x, weights, plan_layout(x.shape, axes), synchronized=False)

    assert "no float8" in str(reason((4, 2), (1,), "float8_e4m3fn"))
    assert "separate runs" in str(reason((4, 2, 3, 2, 3, 2), (1, 3, 5)))
    assert "empty" in str(reason((0, 2), (1,)))
    assert "differ between channels" in str(reason((4, 2), (1,), weights=jnp.ones((4, 2))))
    assert reason((4, 2), (1,)) == why_missing()
    assert reason((4, 2), (1,), weights=jnp.ones((4, 1))) == why_missing()


def test_a_library_that_cannot_be_used_is_left_alone(tmp_path: Path) -> None:
    """The package then computes the plain way, and says why."""
    broken = tmp_path / "libbatchnorm_jax.so"
    program = f"""
from pathlib import Path
from batchnorm._kernels import jax as calls
calls.LIBRARY = Path({str(broken)!r})
{DEVICES}
print(calls.why_missing())
"""
    for content, says in ((None, "not built"), (b"no library", "built, but not loaded")):
        if content is not None:
            broken.write_bytes(content)
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.stdout.startswith("plain 1.0\n" + says), done.stdout + done.stderr[-3000:]
