"""What only the NNX module does: options beyond Flax's, transformations of modules, and its refusals."""

import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import batchnorm
from batchnorm import Clip, Ghost, Options, Renorm
from batchnorm.flax import BatchNorm
from tolerances import assert_close

pytestmark = pytest.mark.needs("flax", "jax")

SHAPE = (6, 2, 3)
CLIP = {"rmin": 0.8, "rmax": 1.25, "dmax": 0.5}
# The module's arguments, and the options of the pure function that they stand for.
ASKED = {
    "renorm": (
        {"renorm": True, "renorm_clipping": CLIP, "renorm_momentum": 0.7},
        {"renorm": Renorm(Clip(**CLIP), 0.7)},
    ),
    "debiased renorm": (
        {"renorm": True, "renorm_form": "debiased"},
        {"renorm": Renorm(form="debiased")},
    ),
    "ghosts": ({"virtual_batch_size": 3}, {"ghost": Ghost(3)}),
    "contiguous": (
        {"virtual_batch_size": 2, "ghost_order": "contiguous"},
        {"ghost": Ghost(2, "contiguous")},
    ),
    "smaller ghosts": (
        {"virtual_batch_size": 4, "ghost_remainder": "smaller"},
        {"ghost": Ghost(4, remainder="smaller")},
    ),
    "averages by group": (
        {"virtual_batch_size": 2, "ghost_averages": "group"},
        {"ghost": Ghost(2, averages="group")},
    ),
    "sample": ({"variance": "sample"}, {"variance": "sample"}),
    "zero-debias": ({"zero_debias": True}, {"debias_mean": True}),
    "two axes": ({"axis": (0, -1)}, {"axes": (0, -1)}),
    "plain": ({"fused": False, "use_bias": False}, {"fused": False, "with_beta": False}),
}
NAMES = {"mean": "moving_mean", "var": "moving_variance"}


def batch(seed: int = 0, shape=SHAPE):
    return jnp.asarray(np.random.RandomState(seed).randn(*shape) + 1.0, jnp.float32)


def statistics(module) -> dict:
    return {NAMES.get(name, name): value[...] for name, value in nnx.state(module, nnx.BatchStat).items()}


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", ASKED)
def test_each_option_is_the_pure_functions(name: str, weighted: bool) -> None:
    arguments, fields = ASKED[name]
    options = Options(**{"axes": (-1,), "decay": 0.9, "epsilon": 1e-5, **fields})
    module = BatchNorm(18 if name == "two axes" else 3, momentum=0.9, **arguments, rngs=nnx.Rngs(0))
    params, state = batchnorm.init(options, SHAPE, like=batch())
    weights = jnp.asarray([1.0, 0, 2, 1, 0.5, 1]) if weighted else None
    for seed in range(3):
        x = batch(seed)
        y, state = batchnorm.batch_norm(x, params, state, options, training=True, weights=weights)
        assert_close(module(x, weights=weights), y, "float32", "y")
        assert set(statistics(module)) == set(state)
        for slot, value in statistics(module).items():
            assert_close(value, state[slot], "float32", slot)
    module.eval()
    y, _ = batchnorm.batch_norm(x, params, state, options, training=False)
    assert_close(module(x), y, "float32", "inference")
    assert_close(statistics(module)["moving_mean"], state["moving_mean"], "float32", "after inference")


def test_an_adjustment_acts_in_training_only() -> None:
    module = BatchNorm(3, adjustment=lambda shape: (jnp.full((*shape[:1], 1, 1), 2.0), 1.0), rngs=nnx.Rngs(0))
    plain = BatchNorm(3, rngs=nnx.Rngs(0))
    assert_close(module(batch()), 2 * plain(batch()) + 1, "float32", "training")
    assert_close(module(batch(), True), plain(batch(), True), "float32", "inference")


def test_clipping_follows_its_schedule_inside_jit() -> None:
    """The bounds of each step are those of a module that has them fixed, from the same state."""

    def schedule(step):
        return {"rmax": 1.0 + step / 4.0, "rmin": 1.0 / (1.0 + step / 4.0), "dmax": step / 2.0}

    def make(clipping):
        return BatchNorm(3, momentum=0.5, renorm=True, renorm_clipping=clipping, rngs=nnx.Rngs(0))

    scheduled = make(schedule)

    @nnx.jit
    def step(module, x):
        return nnx.grad(lambda m, x: jnp.sum(jnp.sin(m(x))), argnums=1)(module, x)

    for number in range(4):
        fixed = make({name: float(bound) for name, bound in schedule(number).items()})
        state = nnx.state(scheduled)
        del state["step"]
        nnx.update(fixed, state)
        x = 3 * batch(number) + number
        assert_close(step(scheduled, x), step(fixed, x), "float32", f"gradient at {number}")
        assert_close(scheduled.mean[...], fixed.mean[...], "float32", f"mean at {number}")
        assert int(scheduled.step[...]) == number + 1
    assert not np.allclose(scheduled(x, True), BatchNorm(3, rngs=nnx.Rngs(0))(x))
    assert int(scheduled.step[...]) == 4


def test_modes_are_set_as_on_other_modules() -> None:
    module, x = BatchNorm(3, use_running_average=None, rngs=nnx.Rngs(0)), batch()
    with pytest.raises(ValueError, match=r"^use_running_average was given neither .* eval\(\)\.$"):
        module(x)
    module.train()
    module(x)
    before = module.mean[...]
    assert jnp.any(before != 0)
    module.eval()
    assert_close(module(x), nnx.view(module, use_running_average=True)(x), "float32", "view")
    assert jnp.array_equal(module.mean[...], before)
    module(x, False)
    assert jnp.any(module.mean[...] != before)


def test_vmap_over_modules_and_scan_over_layers() -> None:
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return BatchNorm(3, scale_init=nnx.initializers.normal(1.0), renorm=True, rngs=rngs)

    stacked, xs = make(nnx.Rngs(0)), jnp.stack([batch(seed) for seed in range(3)])
    singles = [
        nnx.merge(nnx.graphdef(stacked), jax.tree.map(lambda a, i=i: a[i], nnx.state(stacked)))
        for i in range(3)
    ]
    ys = nnx.vmap(lambda module, x: module(x))(stacked, xs)
    for index, single in enumerate(singles):
        assert_close(ys[index], single(xs[index]), "float32", "vmap")
        assert_close(stacked.mean[...][index], single.mean[...], "float32", "vmap's mean")

    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def layers(x, module):
        return module(x)

    y, expected = layers(xs[0], stacked), xs[0]
    for index, single in enumerate(singles):
        expected = single(expected)
        assert_close(stacked.var[...][index], single.var[...], "float32", "scan's variance")
    assert_close(y, expected, "float32", "scan")


def test_masks_over_a_mapped_axis_count_what_is_there() -> None:
    """Members with 3, 1, 0 and 2 rows are one batch of six, where Flax averages the members' averages."""
    x = batch(shape=(4, 3, 2))
    mask = jnp.asarray([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 0, 1]], bool)[..., None]
    graph, state = nnx.split(BatchNorm(2, momentum=0.0, axis_name="members", rngs=nnx.Rngs(0)))

    @partial(jax.vmap, axis_name="members", in_axes=(None, 0, 0))
    def step(state, x, mask):
        module = nnx.merge(graph, state)
        module(x, mask=mask)
        return module.mean[...], module.var[...]

    mean, variance = step(state, x, mask)
    rows = x[jnp.broadcast_to(mask, x.shape)].reshape(-1, 2)
    assert rows.shape == (6, 2)
    for member in range(4):
        assert_close(mean[member], rows.mean(0), "float32", "mean")
        assert_close(variance[member], rows.var(0), "float32", "variance")


DEVICES = """
import os
os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from batchnorm.flax import BatchNorm

x = jnp.asarray(np.random.RandomState(0).randn(4, 3, 2), jnp.float32)
for groups in (None, [[0, 1], [2, 3]]):
    results = []
    for kind in (BatchNorm, nnx.BatchNorm):
        module = kind(2, axis_name="devices", axis_index_groups=groups, rngs=nnx.Rngs(0))
        graph, state = nnx.split(module)
        def step(state, x):
            module = nnx.merge(graph, state)
            return module(x), module.mean[...], module.var[...]
        results.append(jax.pmap(step, axis_name="devices", in_axes=(None, 0))(state, x))
    for ours, theirs in zip(*results):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    print(len(np.unique(np.asarray(results[0][1]), axis=0)))
"""


def test_devices_and_their_groups_are_those_of_flax() -> None:
    """On four devices: one set of statistics for all of them, then one for each of two groups."""
    done = subprocess.run([sys.executable, "-c", DEVICES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["1", "2"]


def test_a_batch_without_a_valid_row_changes_nothing() -> None:
    module = BatchNorm(3, renorm=True, zero_debias=True, rngs=nnx.Rngs(0))
    module(batch())
    before = statistics(module)
    y = module(batch(1), mask=jnp.zeros((6, 1, 1), bool))
    assert jnp.isfinite(y).all()
    for name, value in statistics(module).items():
        assert jnp.array_equal(value, before[name]), name


REFUSED = {
    "momentum": ({"momentum": 1.5}, "momentum=1.5 was asked for. It is the share"),
    "bound": (
        {"renorm": True, "renorm_clipping": {"max": 1}},
        "renorm_clipping={'max': 1} was given. Received invalid keys ['max'].",
    ),
    "crossed": (
        {"renorm": True, "renorm_clipping": {"rmin": 2, "rmax": 1}},
        "renorm_clipping with rmin=2.0 and rmax=1.0 was given. No r lies",
    ),
    "dmax": (
        {"renorm": True, "renorm_clipping": {"dmax": -1}},
        "renorm_clipping with dmax=-1.0 was given. d lies in",
    ),
    "no renorm": (
        {"renorm_clipping": {"dmax": 1}},
        "renorm_clipping={'dmax': 1} was asked for without renorm.",
    ),
    "groups": (
        {"axis_index_groups": [[0]]},
        "axis_index_groups=[[0]] was asked for with axis_name=None.",
    ),
    "pair": ({"renorm": True, "variance": "sample"}, "Renorm and sample variance were asked for together."),
    "ghost size": ({"virtual_batch_size": 0}, "A ghost batch size of 0 was asked for."),
    "variance": ({"variance": "biased"}, "variance='biased' was asked for."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_at_construction(name: str) -> None:
    arguments, message = REFUSED[name]
    with pytest.raises(ValueError, match="^" + re.escape(message)) as caught:
        BatchNorm(3, **arguments, rngs=nnx.Rngs(0))
    assert str(caught.value).count(". ") >= 2


def test_insisting_on_kernels_is_granted_or_refused_in_the_call() -> None:
    """As `explain` says of the input; a refusal changes nothing, and inference takes the fastest way there is."""
    options = Options(axes=(-1,), epsilon=1e-5, fused=True)
    # Weights that differ between channels are what no kernel takes.
    for shape, weights in (((64, 512, 3), None), ((6, 2, 3), None), ((6, 2, 3), jnp.ones((6, 2, 3)))):
        module, x = BatchNorm(3, fused=True, rngs=nnx.Rngs(0)), batch(shape=shape)
        said = batchnorm.explain(x, options, weights=weights)
        before = statistics(module)
        if said.path == "native":
            assert_close(module(x), BatchNorm(3, fused=False, rngs=nnx.Rngs(0))(x), "float32", "y")
            assert not jnp.array_equal(module.mean[...], before["moving_mean"])
        else:
            assert said.path == "refused"
            with pytest.raises(ValueError, match="^fused=True was asked for.*" + re.escape(said.why)):
                module(x, weights=weights)
            for name, value in statistics(module).items():
                assert jnp.array_equal(value, before[name]), name
        assert module(x, True).shape == shape
    assert said.path == "refused"


def test_wrong_types_are_refused_at_construction() -> None:
    with pytest.raises(TypeError, match=r"^axis='c' was asked for\. An axis is named by an int, .*\. Pass"):
        BatchNorm(3, axis="c", rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match=r"^adjustment=2 was asked for\. It is called with .*\. Pass"):
        BatchNorm(3, adjustment=2, rngs=nnx.Rngs(0))


def test_what_does_not_fit_is_refused_at_the_call() -> None:
    module = BatchNorm(4, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"shape \(6, 2, 3\) came to a module with num_features=4\. Its axis -1"
    ):
        module(batch())
    module = BatchNorm(3, rngs=nnx.Rngs(0))
    with pytest.raises(
        ValueError, match=r"^A mask of shape \(6,\) came with an input of shape \(6, 2, 3\)\. "
    ):
        module(batch(), mask=jnp.ones(6, bool))
    with pytest.raises(
        ValueError, match=r"^Weights of shape \(5,\) came with an input of shape \(6, 2, 3\)\. "
    ):
        module(batch(), weights=jnp.ones(5))
    module = BatchNorm(3, adjustment=lambda shape: (jnp.ones((1, *shape)), 0.0), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"^The adjustment returned a tensor of rank 4\. It must broadcast"):
        module(batch())
    ghosts = BatchNorm(3, virtual_batch_size=4, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"virtual_batch_size must divide the batch size"):
        ghosts(batch())
    assert ghosts(batch(), True).shape == SHAPE


@pytest.mark.parametrize("name", ["renorm", "zero_debias", "fused", "use_running_average"])
def test_switches_are_booleans(name):
    with pytest.raises(TypeError, match=f"{name}='no' was given"):
        BatchNorm(3, rngs=nnx.Rngs(0), **{name: "no"})


def test_view_info_tells_what_a_view_may_set() -> None:
    """It reads the docstring of `set_view`, in one indentation only."""
    told = nnx.view_info(BatchNorm(3, rngs=nnx.Rngs(0)))
    assert "use_running_average: bool | None = None" in told
