"""Every option of the layers against the oracle, over steps; what a call may bring; what is refused."""

from typing import Any

import numpy as np
import pytest
import torch

import batchnorm.torch as bt
import oracle
from oracle_cases import variables_of
from properties.cases import spec_of
from tolerances import assert_close

pytestmark = pytest.mark.needs("torch")

SHAPE = (6, 4, 3, 2)
NAMES = {
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
    "moving_mean_biased": "biased",
    "moving_mean_local_step": "local_step",
}
CLIPPING = {"rmin": 0.7, "rmax": 1.4, "dmax": 0.5}
OPTIONS = {
    "renorm": {"renorm": True, "renorm_clipping": CLIPPING, "renorm_momentum": 0.3},
    "debiased renorm": {"renorm": True, "renorm_clipping": CLIPPING, "renorm_form": "debiased"},
    "interleaved": {"virtual_batch_size": 2},
    "contiguous": {"virtual_batch_size": 3, "ghost_order": "contiguous"},
    "last axis": {"axis": -1},
    "two axes": {"axis": [1, 3]},
    "population": {"variance": "population"},
    "zero-debias": {"zero_debias": True},
    "plain operations": {"fused": False},
    "renorm and ghosts": {"renorm": True, "virtual_batch_size": 2, "momentum": 0.5},
    "axes and ghosts": {"axis": (1, 3), "virtual_batch_size": 3, "ghost_order": "contiguous"},
    "not affine": {"renorm": True, "affine": False},
}


def layer_of(options: dict[str, Any], dtype: Any = torch.float64) -> Any:
    axis = options.get("axis", 1)
    axes = [axis] if isinstance(axis, int) else axis
    layer = bt.BatchNorm2d(int(np.prod([SHAPE[a] for a in axes])), dtype=dtype, **options)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


def start_of(layer: Any) -> oracle.State:
    axes = [axis % len(SHAPE) for axis in layer.settings.axes]
    kept = [SHAPE[axis] for axis in axes]
    return oracle.init_state(spec_of(layer.options), SHAPE, np.zeros(kept), np.ones(kept))


def oracle_step(layer: Any, state: oracle.State, x: Any, weights: Any = None, pair: Any = None) -> Any:
    gamma, beta = (None if p is None else p.detach().double().numpy() for p in (layer.weight, layer.bias))
    spec = spec_of(layer.options)
    return oracle.train_step(spec, state, x.detach().double().numpy(), gamma, beta, weights, pair)


def check_state(layer: Any, state: oracle.State, dtype: str = "float64") -> None:
    expected = variables_of(state)
    for name, value in layer.named_buffers():
        if name != "num_batches_tracked":
            want = np.reshape(expected[NAMES.get(name, name)], tuple(value.shape))
            assert_close(value.double(), want, dtype, name)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_steps_agree_with_the_oracle(name: str, memory: Any) -> None:
    layer = layer_of(OPTIONS[name])
    state = start_of(layer)
    for _ in range(4):
        x = (
            (torch.randn(SHAPE, dtype=torch.float64) * 2 + 1)
            .contiguous(memory_format=memory)
            .requires_grad_()
        )
        y = layer(x)
        # Channels last and two axes apart cost a copy.
        kept = memory == torch.contiguous_format or "axes" not in name
        assert y.is_contiguous(memory_format=memory) or not kept
        dy = torch.randn_like(y)
        parameters = [x, *layer.parameters()]
        found = torch.autograd.grad(y, parameters, dy)
        assert found[0].is_contiguous(memory_format=memory) or "axes" in name
        given = (None if p is None else p.detach().numpy() for p in (layer.weight, layer.bias))
        expected = oracle.gradients(spec_of(layer.options), state, x.detach().numpy(), *given, dy.numpy())
        wanted, state = oracle_step(layer, state, x)
        assert_close(y.detach(), wanted, "float64", "y")
        for key, value in zip(("dx", "dgamma", "dbeta"), found, strict=False):
            assert_close(value, np.reshape(expected[key], value.shape), "float64", key, within=1e-10)
        check_state(layer, state)
    x = torch.randn(5, *SHAPE[1:], dtype=torch.float64)
    given = (None if p is None else p.detach().numpy() for p in (layer.weight, layer.bias))
    assert_close(
        layer.eval()(x).detach(),
        oracle.infer(spec_of(layer.options), state, x.numpy(), *given),
        "float64",
        "y",
    )


def spread(value: Any, shape: tuple[int, ...]) -> Any:
    return np.reshape(np.asarray(value, np.float64), shape)


@pytest.mark.parametrize("fused", [None, False])
@pytest.mark.parametrize(
    "shape", [(6,), (6, 3), (6, 3, 2), (1, 3, 2), (6, 1, 1, 1), (6, 4, 3, 2), (1, 4, 1, 1)], ids=str
)
def test_weights_and_masks_agree_with_the_oracle(shape: tuple[int, ...], fused: bool | None) -> None:
    layer = layer_of({"fused": fused})
    state = start_of(layer)
    full = shape if len(shape) == 4 else (shape[0], 1, *shape[1:], *[1] * (3 - len(shape)))
    for _ in range(3):
        x = torch.randn(SHAPE, dtype=torch.float64)
        weight, mask = torch.rand(shape), torch.rand(shape) < 0.7
        both = spread(weight.double() * mask, full)
        y, state = layer(x, weight, mask).detach(), state
        wanted, after = oracle_step(layer, state, x, both)
        assert_close(y, wanted, "float64", "y", within=1e-10)
        check_state(layer, after)
        state = after
    _, after = oracle_step(layer, state, x, spread(mask, full))
    layer(x, mask=mask)
    check_state(layer, after)


def test_weights_have_a_gradient() -> None:
    layer = layer_of({"virtual_batch_size": 3})
    x, weight = torch.randn(SHAPE, dtype=torch.float64), torch.rand(6, dtype=torch.float64).requires_grad_()

    def run(weight: Any) -> Any:
        with bt.frozen_statistics():
            return layer(x, weight)

    assert torch.autograd.gradcheck(run, weight)


def test_without_any_weight_nothing_is_counted() -> None:
    layer = layer_of({"momentum": None})
    x = torch.randn(SHAPE, dtype=torch.float64)
    layer(x)
    before = {name: value.clone() for name, value in layer.named_buffers()}
    y = layer(x, mask=torch.zeros(6, dtype=torch.bool))
    assert torch.isfinite(y).all()
    for name, value in layer.named_buffers():
        assert torch.equal(value, before[name]), name


def test_evaluation_ignores_weights_that_fit_and_refuses_others() -> None:
    layer = layer_of({}).eval()
    x = torch.randn(SHAPE, dtype=torch.float64)
    assert torch.equal(layer(x, torch.rand(6), torch.rand(6) < 0.5), layer(x))
    for training in (True, False):
        with pytest.raises(
            ValueError, match=r"A weight of shape \(5,\) came with an input of shape \(6, 4, 3, 2\)"
        ):
            layer.train(training)(x, torch.rand(5))
        with pytest.raises(ValueError, match=r"A mask of shape \(\)"):
            layer(x, mask=torch.tensor(True))


@pytest.mark.parametrize("kind", ["channel", "example"])
def test_an_adjustment_agrees_with_the_oracle(kind: str) -> None:
    shape = (1, 4, 1, 1) if kind == "channel" else (6, 1, 1, 1)
    pair = torch.rand(2, *shape, dtype=torch.float64) + 0.5
    seen = []

    def adjustment(shape: Any) -> Any:
        seen.append(tuple(shape))
        return pair[0], pair[1]

    for memory in (torch.contiguous_format, torch.channels_last):
        layer = layer_of({"adjustment": adjustment})
        x = torch.randn(SHAPE, dtype=torch.float64).contiguous(memory_format=memory)
        wanted, state = oracle_step(layer, start_of(layer), x, pair=tuple(pair.numpy()))
        y = layer(x)
        assert y.is_contiguous(memory_format=memory)
        assert_close(y.detach(), wanted, "float64", "y")
        check_state(layer, state)
        layer.eval()(x)
    assert seen == [SHAPE, SHAPE]


def test_a_schedule_sets_the_bounds_of_each_step() -> None:
    seen = []

    def schedule(step: Any) -> dict[str, Any]:
        seen.append(int(step))
        return [{"rmin": 1.0, "rmax": 1.0, "dmax": 0.0}, {"rmax": 1.2, "dmax": 0.1}, {}][min(seen[-1], 2)]

    scheduled = layer_of({"renorm": True, "renorm_clipping": schedule})
    for step in range(4):
        x = torch.randn(SHAPE, dtype=torch.float64) * 3 + 2
        bounds = [{"rmin": 1.0, "rmax": 1.0, "dmax": 0.0}, {"rmax": 1.2, "dmax": 0.1}, {}][min(step, 2)]
        fixed = bt.BatchNorm2d(4, dtype=torch.float64, renorm=True, renorm_clipping=bounds)
        fixed.load_state_dict(scheduled.state_dict())
        assert torch.equal(scheduled(x), fixed(x))
    assert seen == [0, 1, 2, 3]


def test_the_papers_schedule() -> None:
    """Ioffe 2017, section 4: plain for 5000 steps, r_max to 3 at 40000 and d_max to 5 at 25000."""
    schedule = bt.clipping_schedule()
    for step, rmax, dmax in (
        (0, 1, 0),
        (5000, 1, 0),
        (15000, 1 + 2 * 10 / 35, 2.5),
        (25000, 1 + 2 * 20 / 35, 5),
    ):
        bounds = schedule(torch.tensor(step))
        assert_close(bounds["rmax"], rmax, "float32", f"rmax at {step}")
        assert_close(bounds["rmin"], 1 / rmax, "float32", f"rmin at {step}")
        assert_close(bounds["dmax"], dmax, "float32", f"dmax at {step}")
    assert float(schedule(torch.tensor(10**6))["rmax"]) == 3.0
    jump = bt.clipping_schedule(100, 3.0, 100, 5.0, 100)
    assert [float(jump(torch.tensor(step))["rmax"]) for step in (99, 100)] == [1.0, 3.0]
    with pytest.raises(ValueError, match=r"clipping_schedule\(warmup=10, rmax=3.0, rmax_step=5"):
        bt.clipping_schedule(10, rmax_step=5)


REFUSED = {
    "sample renorm": ({"renorm": True, "variance": "sample"}, ValueError, "Renorm and sample variance"),
    "unknown bound": (
        {"renorm": True, "renorm_clipping": {"rmaxx": 1}},
        ValueError,
        r"invalid keys \['rmaxx'\]",
    ),
    "crossed bounds": (
        {"renorm": True, "renorm_clipping": {"rmin": 2.0, "rmax": 1.0}},
        ValueError,
        "No r lies",
    ),
    "negative d": (
        {"renorm": True, "renorm_clipping": {"dmax": -1.0}},
        ValueError,
        r"d lies in \[-dmax, dmax\]",
    ),
    "ghost size": ({"virtual_batch_size": 0}, ValueError, "A ghost batch size of 0"),
    "ghost type": ({"virtual_batch_size": 2.5}, TypeError, "A ghost batch size of 2.5"),
    "ghost order": ({"virtual_batch_size": 2, "ghost_order": "odd"}, ValueError, "'odd'"),
    "untracked renorm": (
        {"renorm": True, "track_running_stats": False},
        ValueError,
        "track_running_stats=False",
    ),
    "two averages": (
        {"zero_debias": True, "momentum": None},
        ValueError,
        "zero_debias=True .* momentum=None",
    ),
    "adjustment": ({"adjustment": 3}, TypeError, "adjustment=3"),
    "debiased twice": (
        {"renorm": True, "renorm_form": "debiased", "zero_debias": True},
        ValueError,
        "Debiased renorm and zero-debias",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_options_are_refused_at_construction(name: str) -> None:
    options, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        bt.BatchNorm2d(4, **options)


def test_inputs_are_refused_in_a_call() -> None:
    x = torch.randn(SHAPE)
    with pytest.raises(ValueError, match="virtual_batch_size must divide the batch size"):
        bt.BatchNorm2d(4, virtual_batch_size=4)(x)
    with pytest.raises(ValueError, match="num_features=3"):
        bt.BatchNorm2d(3, renorm=True)(x)
    with pytest.raises(ValueError, match="Duplicate axis"):
        bt.BatchNorm2d(4, axis=(1, -3))(x)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        bt.BatchNorm1d(4, virtual_batch_size=1)(torch.randn(6, 4))
    with pytest.raises(TypeError, match="The adjustment returned 3"):
        bt.BatchNorm2d(4, adjustment=lambda shape: 3)(x)
    with pytest.raises(ValueError, match="The adjustment returned a tensor of rank 5"):
        bt.BatchNorm2d(4, adjustment=lambda shape: (torch.ones(1, 1, 1, 1, 1), 0.0))(x)


def test_ghost_batches_are_a_loop_over_chunks() -> None:
    layer = layer_of({"virtual_batch_size": 2, "ghost_order": "contiguous"}, torch.float32)
    plain = torch.nn.BatchNorm2d(4)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(SHAPE)
    y = torch.cat(
        [
            torch.nn.functional.batch_norm(part, None, None, plain.weight, plain.bias, True)
            for part in x.split(2)
        ]
    )
    assert_close(layer(x).detach(), y.detach(), "float32", "y")
    # In evaluation any batch size will do.
    assert layer.eval()(x[:5]).shape == (5, 4, 3, 2)


@pytest.mark.parametrize("batch", [7, 9, 10, 3])
@pytest.mark.parametrize("fused", [None, False])
def test_smaller_ghosts_are_a_loop_over_chunks(batch: int, fused: bool | None) -> None:
    """Loops as programs write them: `torch.chunk` into as many chunks as the size requires, and a call for each."""
    options = {"ghost_order": "contiguous", "ghost_remainder": "smaller", "ghost_averages": "group"}
    layer = bt.BatchNorm2d(4, virtual_batch_size=3, fused=fused, **options)
    plain = torch.nn.BatchNorm2d(4)
    for _ in range(2):
        x = torch.randn(batch, 4, 3, 2)
        ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        y = layer(ours)
        assert not y._is_view()
        loop = torch.cat([plain(part) for part in theirs.chunk(-(-batch // 3))])
        assert_close(y.detach(), loop.detach(), "float32", "y")
        dy = torch.randn_like(y)
        y.backward(dy)
        loop.backward(dy)
        assert_close(ours.grad, theirs.grad, "float32", "dx")
        for name in ("running_mean", "running_var"):
            assert_close(getattr(layer, name), getattr(plain, name), "float32", name)
        for name in ("weight", "bias"):
            got, want = getattr(layer, name).grad, getattr(plain, name).grad
            assert_close(got, want, "float32", name, summands=batch * 6)


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0, None])
def test_averages_by_group_move_as_in_a_loop(momentum: float | None) -> None:
    layer = bt.BatchNorm1d(
        4, virtual_batch_size=4, momentum=momentum, ghost_order="contiguous", ghost_averages="group"
    )
    plain = torch.nn.BatchNorm1d(4, momentum=momentum)
    for _ in range(3):
        x = torch.randn(12, 4)
        layer(x)
        for part in x.split(4):
            plain(part)
        for name in ("running_mean", "running_var"):
            assert_close(getattr(layer, name), getattr(plain, name), "float32", name)


def test_a_step_with_a_larger_momentum_is_a_loop_with_a_smaller_one() -> None:
    """1 − (1 − m)^G once per step corresponds to m once per group in a loop; exactly if the groups are alike."""
    part, groups, momentum = torch.randn(4, 3), 3, 0.1
    layer = bt.BatchNorm1d(
        3, virtual_batch_size=4, momentum=1 - (1 - momentum) ** groups, ghost_order="contiguous"
    )
    plain = torch.nn.BatchNorm1d(3, momentum=momentum)
    layer(part.repeat(groups, 1))
    for _ in range(groups):
        plain(part)
    assert_close(layer.running_mean, plain.running_mean, "float32", "running_mean")
    assert_close(layer.running_var, plain.running_var, "float32", "running_var")
