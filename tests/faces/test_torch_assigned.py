"""What programs assign to a finished layer takes effect at once, as on `torch.nn`'s, or is refused."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import batchnorm
import batchnorm.torch as bt

pytestmark = pytest.mark.needs("torch")

HELD = {"rmin": 1.0, "rmax": 1.0, "dmax": 0.0}
# Each normalizes as torch.nn's layer does if the batch is one group.
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain operations": {"fused": False},
    "population": {"variance": "population"},
    "zero-debias": {"zero_debias": True},
    "renorm": {"renorm": True, "renorm_clipping": HELD},
    "debiased renorm": {"renorm": True, "renorm_form": "debiased", "renorm_clipping": HELD},
    "renorm and zero-debias": {"renorm": True, "renorm_clipping": HELD, "zero_debias": True},
    "ghosts": {"virtual_batch_size": 8},
    "adjustment": {"adjustment": lambda shape: (torch.ones(1, 1), 0.0)},
    "mask": {},
}
# Those that store the same mean and variance as torch.nn.
SAME_STATE = ("plain", "plain operations", "ghosts", "adjustment", "mask")
X = torch.linspace(-1.0, 3.0, 24).reshape(8, 3).sin() * 2 + 1


def outcome(layer: Any, name: str) -> Any:
    x = X.clone().requires_grad_()
    call = (
        {"mask": torch.ones(8, dtype=torch.bool)}
        if name == "mask" and isinstance(layer, bt.BatchNorm1d)
        else {}
    )
    try:
        y = layer(x, **call)
    except (ValueError, RuntimeError) as error:
        return type(error)
    (dx,) = torch.autograd.grad(y.pow(3).sum(), x)
    return y.detach(), dx, layer.running_mean, layer.running_var, layer.num_batches_tracked


@pytest.mark.parametrize("name", OPTIONS)
def test_every_combination_does_what_it_does_on_torch_nn(name: str) -> None:
    """Training or not, tracking or not, and each of the statistics present or None."""
    for training, track, mean, variance, count, average in itertools.product((True, False), repeat=6):
        both = []
        for layer in (nn.BatchNorm1d(3), bt.BatchNorm1d(3, **OPTIONS[name])):
            layer(X), layer(X * 3)
            layer.train(training)
            layer.track_running_stats = track
            if average:
                layer.momentum = None
            if not mean:
                layer.running_mean = None
            if not variance:
                layer.running_var = None
            if not count:
                layer.num_batches_tracked = None
            both.append(outcome(layer, name))
        case = f"{training=} {track=} {mean=} {variance=} {count=} {average=}"
        theirs, ours = both
        if isinstance(theirs, type) or isinstance(ours, type):
            assert ours is theirs, case
            continue
        by_batch = training or not mean
        compared = 2 if by_batch or name in SAME_STATE else 0
        compared = 5 if name in SAME_STATE else compared
        for one, other in zip(ours[:compared], theirs[:compared], strict=True):
            assert (one is None) == (other is None), case
            if other is not None:
                torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, msg=case)


@pytest.mark.parametrize("name", OPTIONS)
def test_without_running_statistics_the_batchs_are_used(name: str) -> None:
    """TENT and `replace_all_batch_norm_modules_` remove them; and back again."""
    options = OPTIONS[name] | {"renorm_clipping": None}
    layer = bt.BatchNorm1d(3, **options)
    layer(X * 3)
    kept = layer.running_mean, layer.running_var, layer.num_batches_tracked
    torch.func.replace_all_batch_norm_modules_(layer)
    want = nn.functional.batch_norm(X, None, None, training=True)
    for training in (True, False):
        torch.testing.assert_close(layer.train(training)(X).detach(), want)
    layer.running_mean, layer.running_var, layer.num_batches_tracked = kept
    layer.track_running_stats = True
    layer.train()(X)
    assert int(layer.num_batches_tracked) == 2


@pytest.mark.parametrize("name", ["plain", "renorm", "zero-debias", "population"])
def test_replaced_layers_train_under_vmap(name: str) -> None:
    model = nn.Sequential(nn.Linear(3, 3), bt.BatchNorm1d(3, **OPTIONS[name]))
    model(X)
    torch.func.replace_all_batch_norm_modules_(model)
    parameters = dict(model.named_parameters())

    def loss(parameters: Any, x: Any) -> Any:
        return torch.func.functional_call(model, parameters, (x,)).pow(3).sum()

    batches = torch.stack([X, X * 2, X.cos()])
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, batches)
    for index, x in enumerate(batches):
        want = torch.autograd.grad(loss(parameters, x), list(parameters.values()))
        for value, other in zip(found.values(), want, strict=True):
            torch.testing.assert_close(value[index], other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["plain", "renorm", "zero-debias"])
def test_assignments_count_in_compiled_layers(name: str) -> None:
    torch._dynamo.reset()
    layer = bt.BatchNorm1d(3, **OPTIONS[name])
    other = copy.deepcopy(layer)
    compiled = torch.compile(other, fullgraph=True, backend="aot_eager")
    for assigned in (
        {},
        {"momentum": 0.5},
        {"track_running_stats": False},
        {"running_mean": None, "running_var": None},
    ):
        for each in (layer, other):
            for key, value in assigned.items():
                setattr(each, key, value)
        torch.testing.assert_close(compiled(X).detach(), layer(X).detach())
        for one, two in zip(other.buffers(), layer.buffers(), strict=True):
            torch.testing.assert_close(one, two)


def test_another_momentum_keeps_the_debiased_mean() -> None:
    """Schedules assign `momentum`: the mean gathered so far stays as it is."""
    layer = bt.BatchNorm1d(1, zero_debias=True, momentum=0.5)
    seen, weights = [], []
    for step, momentum in enumerate((0.5, 0.5, 0.1, 0.1, 0.3)):
        layer.momentum = momentum
        x = torch.tensor([[step], [step + 2.0]]) ** 2
        before = None if not seen else layer.running_mean.clone()
        layer(x)
        seen.append(float(x.mean()))
        weights.append(momentum)
        if before is None:
            assert float(layer.running_mean) == seen[0]
            continue
        # In an average over n steps whose shares add up to one, the new batch has m / (1 − (1 − m)ⁿ).
        share = momentum / (1 - (1 - momentum) ** (step + 1))
        want = float(before) + share * (seen[-1] - float(before))
        assert float(layer.running_mean) == pytest.approx(want, rel=1e-5)
        assert min(seen) <= float(layer.running_mean) <= max(seen)


def test_weights_may_go_and_epsilon_may_change() -> None:
    for options in ({}, {"fused": False}, {"variance": "population"}, {"axis": (1,)}):
        theirs, layer = nn.BatchNorm1d(3), bt.BatchNorm1d(3, **options)
        for each in (theirs, layer):
            nn.init.constant_(each.weight, 3.0)
            each(X)
            each.eps = 0.5
            each.weight = None
        torch.testing.assert_close(layer(X), theirs(X))
        theirs.bias = layer.bias = None
        theirs.affine = layer.affine = False
        torch.testing.assert_close(layer(X), theirs(X))


@pytest.mark.parametrize("options", [{}, {"fused": False}, {"variance": "population"}, {"axis": 1}], ids=str)
def test_tensors_may_become_shorter(options: dict[str, Any]) -> None:
    """Programs prune channels this way; `num_features` remains what was given at construction."""
    theirs, layer = nn.BatchNorm1d(3), bt.BatchNorm1d(3, **options)
    for each in (theirs, layer):
        each.weight, each.bias = nn.Parameter(each.weight[:2].detach()), nn.Parameter(each.bias[:2].detach())
        each.running_mean, each.running_var = each.running_mean[:2], each.running_var[:2]
    for training in (True, False):
        torch.testing.assert_close(
            layer.train(training)(X[:, :2]), theirs.train(training)(X[:, :2]), rtol=1e-2, atol=1e-2
        )
    # A layer without tensors takes any number of channels.
    bare = bt.BatchNorm1d(5, affine=False, track_running_stats=False, **options)
    torch.testing.assert_close(bare(X), nn.functional.batch_norm(X, None, None, training=True))


def test_half_pruned_layers_are_refused() -> None:
    layer = bt.BatchNorm1d(3, renorm=True, affine=False)
    layer.running_mean, layer.running_var = layer.running_mean[:2], layer.running_var[:2]
    with pytest.raises(ValueError, match="a parameter or buffer has 3 numbers"):
        layer(X[:, :2])


def test_pruned_and_normed_weights_count() -> None:
    for options in ({}, {"variance": "population"}):
        theirs, layer = nn.BatchNorm1d(3), bt.BatchNorm1d(3, **options)
        for each in (theirs, layer):
            prune.l1_unstructured(each, "weight", 1)
        torch.testing.assert_close(layer(X), theirs(X))


def test_a_layer_without_its_added_statistics_is_refused() -> None:
    layer = bt.BatchNorm1d(3, renorm=True)
    layer.renorm_mean = None
    with pytest.raises(ValueError, match=r"renorm_mean is None.*convert"):
        layer(X)
    assert int(layer.num_batches_tracked) == 0
    layer.eval()(X)
    scheduled = bt.BatchNorm1d(3, renorm=True, renorm_clipping=bt.clipping_schedule(1, 3.0, 3))
    scheduled.num_batches_tracked = None
    with pytest.raises(ValueError, match="num_batches_tracked is None"):
        scheduled(X)


@pytest.mark.parametrize("options", [{}, {"renorm": True}, {"zero_debias": True}], ids=str)
def test_a_state_dict_may_be_assigned(options: dict[str, Any]) -> None:
    theirs = nn.BatchNorm1d(3)
    theirs(X), theirs(X * 2)
    layers = [bt.BatchNorm1d(3, **options) for _ in range(2)]
    layers[0].load_state_dict(copy.deepcopy(theirs.state_dict()), assign=True)
    layers[1].load_state_dict(theirs.state_dict())
    assert torch.equal(layers[0](X), layers[1](X))
    for one, other in zip(layers[0].buffers(), layers[1].buffers(), strict=True):
        assert torch.equal(one, other)
    wide = bt.BatchNorm1d(3, **options)
    wide.load_state_dict(theirs.double().state_dict(), assign=True)
    assert wide(X.double()).dtype == wide.running_mean.dtype == torch.float64


@pytest.mark.parametrize(
    "dtype",
    [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn],
    ids=str,
)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_inputs_that_are_not_floating_are_refused(dtype: Any, training: bool) -> None:
    """With `torch.nn`'s own message if its kernel is called, otherwise as the pure function does."""
    x = torch.arange(24).reshape(8, 3).to(dtype)
    for options in (
        *OPTIONS.values(),
        {"renorm": True},
        {"axis": -1},
        {"virtual_batch_size": 4},
        {"axis": -1, "virtual_batch_size": 4},
    ):
        layer = bt.BatchNorm1d(3, **options).train(training)
        with pytest.raises((TypeError, NotImplementedError)):
            layer(x)
        with pytest.raises((TypeError, NotImplementedError)):
            layer(x, mask=torch.ones(8, dtype=torch.bool))
        assert layer.running_mean.eq(0).all()
    with pytest.raises(TypeError, match="Convert it to a floating dtype"):
        bt.BatchNorm1d(3, variance="population")(x)
    pure = batchnorm.Options((1,))
    with pytest.raises(TypeError, match="Convert it to a floating dtype"):
        batchnorm.batch_norm(x, *batchnorm.init(pure, (8, 3), like=X), pure, training=training)


@pytest.mark.parametrize("assigned", [True, False], ids=["assigned", "cast in place"])
def test_statistics_cast_to_16_bits_by_the_program_keep_counting(assigned: bool) -> None:
    layer = bt.BatchNorm1d(1, zero_debias=True, momentum=0.001)
    for name, value in list(layer.named_buffers()):
        if not value.is_floating_point():
            continue
        if assigned:
            setattr(layer, name, value.to(torch.bfloat16))
        else:
            value.data = value.data.to(torch.bfloat16)
    for _ in range(300):  # bfloat16 counts to 256
        layer(torch.tensor([[1.0], [3.0]]))
    assert float(layer.moving_mean_local_step) == 300
    assert abs(float(layer.running_mean) - 2.0) < 1e-4


@pytest.mark.parametrize("then", [0.1, 0.5])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_zero_debiased_layer_resumes_with_any_momentum(then: float, steps: int) -> None:
    """Every batch has the mean 5, and so has the average of however many; with the same momentum not a bit changes."""
    batch = torch.tensor([[4.0], [6.0]])
    before = bt.BatchNorm1d(1, momentum=0.1, zero_debias=True)
    after = bt.BatchNorm1d(1, momentum=then, zero_debias=True)
    for _ in range(steps):
        before(batch)
    after.load_state_dict(before.state_dict())
    for _ in range(2):
        after(batch)
        before(batch)
        torch.testing.assert_close(after.running_mean, torch.tensor([5.0]))
        assert then != 0.1 or all(map(torch.equal, after.buffers(), before.buffers()))
