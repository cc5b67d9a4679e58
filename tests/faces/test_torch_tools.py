"""The layers under PyTorch's tools that trace, fuse, quantize, script and average models."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch.ao import quantization
from torch.fx.experimental import optimization
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils import parametrize
from torch.optim import swa_utils

import batchnorm
import batchnorm.torch as bt

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
    ),
]

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain average": {"momentum": None},
    "plain operations": {"fused": False},
    "population": {"variance": "population"},
    "zero-debias": {"zero_debias": True},
    "renorm": {"renorm": True},
    "schedule": {"renorm": True, "renorm_clipping": bt.clipping_schedule(1, 3.0, 3, 5.0, 3)},
    "ghosts": {"virtual_batch_size": 2},
    "contiguous ghosts": {"virtual_batch_size": 2, "ghost_order": "contiguous"},
    "two axes": {"axis": (1, 2)},
    "adjustment": {"adjustment": lambda shape: (torch.full((1, 1, 1, 1), 2.0), 1.0)},
}
KEPT = ("plain", "plain average", "plain operations")


def network(**options: Any) -> nn.Sequential:
    torch.manual_seed(0)
    sizes = [4, 4]
    first, last = (bt.BatchNorm2d(size, **options) for size in sizes)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.ReLU(), nn.Conv2d(4, 4, 1), last)
    for parameter in (*first.parameters(), *last.parameters()):
        nn.init.normal_(parameter, 1.0, 0.1)
    model(images())
    return model


def images(batch: int = 6) -> Any:
    return torch.randn(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch)) * 2 + 1


def assert_same(one: nn.Module, other: nn.Module, x: Any) -> None:
    torch.testing.assert_close(one(x), other(x), rtol=1e-4, atol=1e-4)
    for (name, a), (_, b) in zip(one.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("name", ["plain", "renorm", "ghosts"])
def test_fx_keeps_the_layers_whole(name: str) -> None:
    """With their hooks and options, in training too; `mask` passes through."""
    model = network(**OPTIONS[name])
    calls: list[int] = []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    traced = fx.symbolic_trace(copy.deepcopy(model))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", *["call_module"] * 5, "output"]
    assert not calls
    ShapeProp(traced).propagate(images())
    model(images())
    for batch in (6, 10):
        assert_same(traced, model, images(batch))
    assert_same(traced.eval(), model.eval(), images(3))

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = bt.BatchNorm1d(3)

        def forward(self, x: Any, mask: Any) -> Any:
            return self.norm(x, mask=mask)

    masked = Masked()
    x, mask = torch.randn(5, 3), torch.arange(5) < 3
    torch.testing.assert_close(fx.symbolic_trace(copy.deepcopy(masked))(x, mask), masked(x, mask))


@pytest.mark.parametrize("name", ["plain", "renorm"])
def test_fx_fuses_after_conversion(name: str) -> None:
    """`fuse` compares exact types and leaves ours as they are."""
    model = network(**OPTIONS[name]).eval()
    x = images()
    untouched = optimization.fuse(model)
    torch.testing.assert_close(untouched(x), model(x))
    fused = optimization.fuse(bt.convert(copy.deepcopy(model), back=True, force=True))
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "population", "zero-debias", "renorm", "ghosts"])
def test_fuse_modules_takes_them(name: str) -> None:
    """For inference, layers with any options; for training, those that torch.nn's layers can replace."""
    model, x = network(**OPTIONS[name]).eval(), images()
    places = [["0", "1", "2"], ["3", "4"]]
    fused = quantization.fuse_modules(model, places)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in fused.modules())
    torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-4)
    model.train()
    if name in KEPT:
        trained = quantization.fuse_modules_qat(copy.deepcopy(model), places)
        torch.testing.assert_close(trained(x), model(x), rtol=1e-4, atol=1e-4)
    else:
        for places in ([["0", "1", "2"]], [["1", "2"]]):
            with pytest.raises(
                ValueError, match=r"fuse_modules was called.*convert\(model, back=True, force=True\)"
            ):
                quantization.fuse_modules_qat(copy.deepcopy(model), places)
    with pytest.raises(ValueError, match="fuse_modules was called"):
        quantization.fuse_modules(nn.Sequential(*network(renorm=True).eval()[1:3]), [["0", "1"]])


def test_quantization_by_fx_runs_and_fuses_after_conversion() -> None:
    quantize_fx = pytest.importorskip("torch.ao.quantization.quantize_fx")
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("needs a quantized engine")
    model, x = network(renorm=True).eval(), images()
    fused = bt.convert(copy.deepcopy(model), back=True, force=True)
    for each, layers in ((model, 2), (fused, 0)):
        mapping = quantization.get_default_qconfig_mapping("fbgemm")
        prepared = quantize_fx.prepare_fx(copy.deepcopy(each), mapping, (x,))
        prepared(x)
        quantized = quantize_fx.convert_fx(prepared)
        assert sum(isinstance(layer, nn.BatchNorm2d) for layer in quantized.modules()) == layers
        assert float((quantized(x) - model(x)).detach().abs().max()) < 0.3


@pytest.mark.parametrize("name", OPTIONS)
def test_scripting_compiles_plain_layers_and_refuses_others(name: str) -> None:
    if name == "two axes":
        return
    model = network(**OPTIONS[name])
    copied = copy.deepcopy(model)
    if name not in KEPT:
        with pytest.raises(
            ValueError, match=r"torch.jit.script was called.*convert\(model, back=True, force=True\)"
        ):
            torch.jit.script(copied)
        return
    scripted = torch.jit.script(copied)
    for batch in (6, 10):
        assert_same(scripted, model, images(batch))
    assert_same(scripted.eval(), model.eval(), images(2))
    # The tensors are those of the layers that were scripted.
    assert dict(scripted.named_buffers())["1.running_mean"].data_ptr() == copied[1].running_mean.data_ptr()
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    file.seek(0)
    torch.testing.assert_close(torch.jit.load(file)(images()), model(images()))


def test_scripting_says_what_it_cannot_take() -> None:
    layer = bt.BatchNorm1d(3)
    parametrize.register_parametrization(bt.convert(layer), "weight", nn.Identity())
    with pytest.raises(ValueError, match="remove_parametrizations"):
        torch.jit.script(layer)


@pytest.mark.parametrize("name", OPTIONS)
def test_jit_traces_training_for_any_batch(name: str) -> None:
    """The statistics move in the traced program, and it does not depend on the size of the batch."""
    size = 24 if name == "two axes" else 4
    layer = bt.BatchNorm2d(size, **OPTIONS[name])
    recorded = copy.deepcopy(layer)
    traced = torch.jit.trace(recorded, (torch.randn(6, 4, 6, 3),), check_trace=False)
    recorded.load_state_dict(layer.state_dict())
    for batch in (6, 10, 4):
        x = torch.randn(batch, 4, 6, 3).requires_grad_()
        y, want = traced(x), layer(x)
        torch.testing.assert_close(y, want, rtol=1e-4, atol=1e-4)
        found, expected = (torch.autograd.grad(each.pow(3).sum(), x)[0] for each in (y, want))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        for (key, one), (_, other) in zip(traced.named_buffers(), layer.named_buffers(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=key)


def test_jit_traces_large_inputs_for_any_batch() -> None:
    """Untraced, these would go to our kernels, which tracers cannot see."""
    layer = bt.BatchNorm2d(4)
    recorded = copy.deepcopy(layer)
    traced = torch.jit.trace(recorded, (torch.randn(2, 4, 200, 200),), check_trace=False)
    recorded.load_state_dict(layer.state_dict())
    x = torch.randn(3, 4, 200, 200)
    torch.testing.assert_close(traced(x), layer(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(recorded.running_var, layer.running_var)


def test_jit_traces_the_pure_function_for_any_batch() -> None:
    options = batchnorm.Options((1,), renorm=batchnorm.Renorm(), ghost=batchnorm.Ghost(2))
    params, state = batchnorm.init(options, (6, 4, 3, 3), like=torch.ones(1))

    def step(x: Any) -> Any:
        y, after = batchnorm.batch_norm(x, params, state, options, training=True)
        return y, after["moving_mean"]

    traced = torch.jit.trace(step, (torch.randn(6, 4, 3, 3),), check_trace=False)
    x = torch.randn(10, 4, 3, 3)
    for found, want in zip(traced(x), step(x), strict=True):
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["plain", "renorm"])
def test_make_fx_records_training(name: str) -> None:
    layer = bt.BatchNorm2d(4, **OPTIONS[name])
    held = copy.deepcopy(layer)
    x = torch.randn(6, 4, 3, 3)
    recorded = make_fx(held)(x)
    # Recording ran a step.
    held.load_state_dict(layer.state_dict())
    for _ in range(2):
        torch.testing.assert_close(recorded(x), layer(x))
        torch.testing.assert_close(held.running_mean, layer.running_mean)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name not in ("two axes",)])
def test_update_bn_gives_the_plain_average_and_the_momentum_back(name: str) -> None:
    options = OPTIONS[name]
    layer, theirs = bt.BatchNorm2d(3, **options), nn.BatchNorm2d(3, momentum=options.get("momentum", 0.1))
    batches = [images(batch) * 0.3 + batch for batch in (2, 4, 6, 8)]
    for each in (layer, theirs):
        model = nn.Sequential(each)
        model(batches[3])
        swa_utils.update_bn(batches, model)
    assert layer.momentum == theirs.momentum
    torch.testing.assert_close(layer.running_mean, theirs.running_mean)
    assert int(layer.num_batches_tracked) == 4
    # A state saved now continues like the layer itself, and remains an average of what was seen.
    saved = bt.BatchNorm2d(3, **options)
    saved.load_state_dict(layer.state_dict())
    again = [layer, saved, copy.deepcopy(layer)]
    before = layer.running_mean.clone()
    for each in again:
        each(batches[0])
        torch.testing.assert_close(each.running_mean, layer.running_mean)
    share = (layer.running_mean - before) / (batches[0].mean((0, 2, 3)) - before)
    m = 1 / 5 if layer.momentum is None else layer.momentum
    want = m / (1 - (1 - m) ** 5) if "zero_debias" in options else m
    torch.testing.assert_close(share, torch.full((3,), want), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("with_buffers", [False, True])
@pytest.mark.parametrize("name", ["plain", "renorm", "zero-debias"])
def test_averaged_models(name: str, with_buffers: bool) -> None:
    model = network(**OPTIONS[name])
    for make in (None, swa_utils.get_ema_multi_avg_fn(0.5)):
        averaged = swa_utils.AveragedModel(model, multi_avg_fn=make, use_buffers=with_buffers)
        for batch in (4, 6):
            model(images(batch))
            averaged.update_parameters(model)
        swa_utils.update_bn([images(4), images(8)], averaged)
        assert int(averaged.module[1].num_batches_tracked) == 2
        again = (
            pickle.loads(pickle.dumps(averaged.module)) if make is None else copy.deepcopy(averaged.module)
        )
        assert_same(again, averaged.module, images(6))
        assert torch.isfinite(averaged.eval()(images(3))).all()
