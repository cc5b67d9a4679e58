"""The layers under PyTorch's compilers, exporters, transforms, autocast and second derivatives."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import batchnorm.torch as bt
from tolerances import assert_close

pytestmark = [pytest.mark.needs("torch"), pytest.mark.slow(2)]

SHAPE = (6, 4, 3, 2)
# Bounds that hold r and d, which the gradient takes for constants, make them constants of the slopes as well.
HELD = {"rmin": 1.2, "rmax": 1.2, "dmax": 0.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain average": {"momentum": None},
    "renorm": {"renorm": True, "renorm_clipping": HELD},
    "schedule": {"renorm": True, "renorm_clipping": bt.clipping_schedule(1, 3.0, 3, 5.0, 2)},
    "interleaved": {"virtual_batch_size": 2},
    "contiguous": {"virtual_batch_size": 3, "ghost_order": "contiguous"},
    "two axes": {"axis": (1, 3)},
    "last axis": {"axis": -1},
    "adjustment": {"adjustment": lambda shape: (torch.linspace(0.5, 2, shape[0]).reshape(-1, 1, 1, 1), 0.5)},
    "plain operations": {"fused": False},
}


def layer_of(name: str, dtype: Any = torch.float32) -> Any:
    size = {"two axes": 8, "last axis": 2}.get(name, 4)
    layer = bt.BatchNorm2d(size, dtype=dtype, **OPTIONS[name])
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter)
    return layer


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "schedule"])
def test_derivatives_are_slopes(name: str, weighted: bool) -> None:
    layer = layer_of(name, torch.float64)
    names = list(dict(layer.named_parameters()))

    def run(x: Any, weight: Any, *parameters: Any) -> Any:
        with bt.frozen_statistics():
            given = dict(zip(names, parameters, strict=True))
            return torch.func.functional_call(layer, given, (x, weight))

    x = torch.randn(6, 4, 1, 2, dtype=torch.float64).requires_grad_()
    weight = torch.rand(6, 1, 1, 2, dtype=torch.float64).requires_grad_() if weighted else None
    point = (x, weight, *layer.parameters())
    assert torch.autograd.gradcheck(run, point, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, point, fast_mode=True)


def steps(layer: Any, **call: Any) -> list[Any]:
    """Outputs, gradients and state of two training steps, and of evaluation."""
    random, found = torch.Generator().manual_seed(5), []
    layer.train()
    for training in (True, True, False):
        getattr(layer, "_orig_mod", layer).train(training)
        x = torch.randn(SHAPE, generator=random).requires_grad_()
        y = layer(x, **call)
        found += [y.detach(), *torch.autograd.grad(y.pow(2).sum(), [x, *layer.parameters()])]
    return found + list(layer.state_dict().values())


def same(one: list[Any], other: list[Any], within: float = 1e-4) -> None:
    for a, b in zip(one, other, strict=True):
        assert_close(a, b, "float32", "compiled", scale=1 + b.abs().max(), within=within)


# PyTorch's own layer breaks the graph at its count.
@pytest.mark.parametrize("name", OPTIONS)
def test_it_compiles_as_one_graph(name: str) -> None:
    torch._dynamo.reset()
    layer = layer_of(name)
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    same(steps(compiled), steps(layer))


def test_weights_compile_too() -> None:
    torch._dynamo.reset()
    layer, call = layer_of("renorm"), {"weight": torch.rand(6), "mask": torch.rand(6, 3, 2) < 0.8}
    compiled = torch.compile(copy.deepcopy(layer), fullgraph=True, backend="aot_eager")
    same(steps(compiled, **call), steps(layer, **call))


def test_it_compiles_to_machine_code() -> None:
    """One graph with all that a training step can have."""
    torch._dynamo.reset()
    layer = bt.BatchNorm2d(
        4, renorm=True, renorm_clipping=bt.clipping_schedule(1, 3.0, 3), virtual_batch_size=3
    )
    compiled, x = torch.compile(copy.deepcopy(layer), fullgraph=True), torch.randn(SHAPE)
    try:
        found = [compiled(x), compiled(x + 1)]
    except torch._dynamo.exc.BackendCompilerFailed as error:
        pytest.skip(f"no compiler for TorchInductor: {error}")
    same([y.detach() for y in found], [layer(x).detach(), layer(x + 1).detach()])
    same(list(compiled.state_dict().values()), list(layer.state_dict().values()))


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", ["plain", "renorm", "interleaved", "two axes"])
def test_it_exports_for_any_batch_size(name: str, training: bool) -> None:
    layer = layer_of(name)
    layer(torch.randn(SHAPE))
    layer.train(training)
    batch = (
        2 * torch.export.Dim("pairs", min=1) if name == "interleaved" else torch.export.Dim("batch", min=2)
    )
    program = torch.export.export(layer, (torch.randn(SHAPE),), dynamic_shapes={"input": {0: batch}})
    x = torch.randn(10, *SHAPE[1:])
    again = copy.deepcopy(layer)
    exported = program.module()
    same([exported(x).detach()], [again(x).detach()])
    if training:
        state = exported.state_dict()
        same([state[key] for key in again.state_dict()], list(again.state_dict().values()))
    elif name != "two axes":
        assert "batch_norm" in str(program.graph)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ["plain", "renorm", "interleaved"])
def test_an_onnx_export_holds_the_standard_node(name: str, tmp_path: Any) -> None:
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    layer = layer_of(name)
    for _ in range(3):
        layer(torch.randn(SHAPE) * 2 + 1)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), layer).eval()
    x = torch.randn(2, 3, 6, 6)
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    kinds = [node.op_type for node in program.model_proto.graph.node]
    assert kinds == ["Conv", "Relu", "BatchNormalization"]
    program.save(tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert_close(y, model(x).detach(), "float32", "y", within=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_gradients_per_example_in_evaluation(name: str) -> None:
    layer = layer_of(name)
    layer(torch.randn(SHAPE))
    layer.eval()
    parameters, buffers = dict(layer.named_parameters()), dict(layer.named_buffers())

    def loss(parameters: Any, x: Any) -> Any:
        return torch.func.functional_call(layer, (parameters, buffers), (x[None],)).pow(2).sum()

    x = torch.randn(SHAPE)
    found = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for index, example in enumerate(x):
        expected = torch.autograd.grad(loss(parameters, example), list(parameters.values()))
        for value, want in zip(found.values(), expected, strict=True):
            assert_close(value[index].detach(), want, "float32", name, within=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_training_under_vmap_is_refused(name: str) -> None:
    layer = layer_of(name)
    before = copy.deepcopy(layer.state_dict())
    x = torch.randn(3, *SHAPE)
    for function in (layer, torch.func.grad(lambda x: layer(x).sum())):
        with pytest.raises(RuntimeError, match=r"training mode under torch.func.vmap.*Call eval\(\)"):
            torch.func.vmap(function)(x)
    for key, value in layer.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_stacked_layers_train_under_vmap() -> None:
    layers = [layer_of("renorm") for _ in range(3)]
    parameters, buffers = torch.func.stack_module_state(layers)
    x = torch.randn(3, *SHAPE)

    def run(parameters: Any, buffers: Any, x: Any) -> Any:
        return torch.func.functional_call(layers[0], (parameters, buffers), (x,))

    y = torch.func.vmap(run)(parameters, buffers, x)
    for index, layer in enumerate(layers):
        assert_close(y[index].detach(), layer(x[index]).detach(), "float32", "y")
        assert_close(buffers["renorm_mean"][index], layer.renorm_mean, "float32", "renorm_mean")


@pytest.mark.parametrize("name", ["plain", "renorm", "interleaved", "plain operations"])
def test_transforms_of_training_agree_with_autograd(name: str) -> None:
    layer = layer_of(name, torch.float64)
    x, dx = torch.randn(2, 4, 4, 1, 2, dtype=torch.float64)

    def loss(x: Any) -> Any:
        with bt.frozen_statistics():
            return layer(x).pow(3).sum()

    value = torch.autograd.functional.vhp(loss, x, dx)[1]
    assert_close(
        torch.func.jvp(torch.func.grad(loss), (x,), (dx,))[1].detach(), value, "float64", "hvp", within=1e-9
    )


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("name", OPTIONS)
def test_16_bit_inputs_are_summed_in_32(name: str, half: Any, memory: Any) -> None:
    layer = layer_of(name)
    exact = copy.deepcopy(layer)
    x = (torch.randn(SHAPE) + 3).to(half).contiguous(memory_format=memory).requires_grad_()
    wide = x.detach().float().requires_grad_()
    y, want = layer(x), exact(wide)
    assert y.dtype == half
    assert_close(y.detach().float(), want.detach(), half, name, scale=1 + want.detach().abs().max())
    y.pow(2).sum().backward()
    want.pow(2).sum().backward()
    assert x.grad.dtype == half
    for (key, value), (_, other) in zip(layer.named_parameters(), exact.named_parameters(), strict=True):
        assert value.grad.dtype == torch.float32
        scale = SHAPE[0] * (1 + other.grad.abs().max())
        assert_close(value.grad, other.grad, half, key, scale=scale)
    for key, value in layer.named_buffers():
        assert_close(value, exact.state_dict()[key], "float32", key)


@pytest.mark.parametrize("name", ["plain", "renorm", "interleaved"])
def test_autocast_leaves_the_parameters_in_32_bits(name: str) -> None:
    layer = layer_of(name)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), layer, torch.nn.Conv2d(4, 2, 1))
    with torch.autocast("cpu", torch.bfloat16):
        y = model(torch.randn(8, 3, 4, 4))
        assert y.dtype == torch.bfloat16
        y.float().pow(2).mean().backward()
    assert all(p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in layer.parameters())
    assert all(b.dtype in (torch.float32, torch.int64) for b in layer.buffers())


HALVED: dict[str, Callable[[torch.nn.Module, Any], Any]] = {
    "to": lambda layer, half: layer.to(half),
    "half": lambda layer, half: layer.half() if half == torch.float16 else layer.bfloat16(),
    "of a model": lambda layer, half: torch.nn.ModuleList([layer]).to("cpu", half)[0],
    "from double": lambda layer, half: layer.double().to(half),
    "made so": lambda layer, half: type(layer)(4, momentum=0.5, dtype=half, **layer.settings.given),
    "assigned": lambda layer, half: assigned(layer, half),
}


def assigned(layer: Any, half: Any) -> Any:
    state = {k: v.to(half) if v.is_floating_point() else v for k, v in layer.state_dict().items()}
    layer.load_state_dict(state, assign=True)
    return layer


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("how", HALVED)
@pytest.mark.parametrize("name", ["plain", "renorm", "interleaved", "debiased"])
def test_statistics_of_halved_layers_have_32_bits(name: str, how: str, half: Any) -> None:
    """The variance of numbers like 1000 is infinite in float16."""
    options = {} if name == "debiased" else dict(OPTIONS[name])
    layer = bt.BatchNorm2d(4, **options | {"momentum": 0.5, "zero_debias": name == "debiased"})
    x = (torch.randn(SHAPE) * 1000).to(half)
    exact = copy.deepcopy(layer)
    exact(x.float())
    layer = HALVED[how](layer, half)
    y = layer(x)
    assert y.dtype == layer.weight.dtype == half
    y.sum().backward()
    assert layer.weight.grad.dtype == half
    wanted = exact.state_dict()
    for key, value in layer.named_buffers():
        assert value.dtype in (torch.float32, torch.int64)
        assert_close(value, wanted[key], "float32", key, scale=1 + wanted[key].abs().max())
    layer.eval(), exact.eval()
    within = exact(x.float()).detach()
    assert_close(layer(x).detach().float(), within, half, "inference", scale=1 + within.abs().max())


def test_casting_back_and_forth_leaves_the_statistics_as_they_were() -> None:
    layer = bt.BatchNorm2d(4)
    layer.running_mean.copy_(torch.tensor([1 / 3, 1e-9, 1e6, -7.1]))
    before = layer.running_mean.clone()
    assert torch.equal(layer.half().float().bfloat16().cpu().running_mean, before)
    assert layer.double().running_mean.dtype == torch.float64


def test_halved_models_go_to_ours_and_back() -> None:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4)).to(torch.bfloat16)
    x = torch.randn(SHAPE).bfloat16()
    bt.convert(model)
    assert model[0].running_var.dtype == torch.float32
    model(x)
    wanted = model.eval()(x)
    bt.convert(model, back=True)
    assert type(model[0]) is torch.nn.BatchNorm2d
    assert_close(model(x).detach().float(), wanted.detach().float(), torch.bfloat16, "back")
    model.train()(x)


def test_halved_layers_compile() -> None:
    layer = bt.BatchNorm2d(4).half()
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
    x = (torch.randn(SHAPE) * 1000).half()
    y = compiled(x)
    assert torch.isfinite(layer.running_var).all()
    assert_close(y.detach().float(), copy.deepcopy(layer)(x).detach().float(), torch.float16, "compiled")
    compiled.eval()
    assert compiled(x).dtype == torch.float16


def test_numpy_sizes_will_do() -> None:
    layer = bt.BatchNorm2d(4, virtual_batch_size=np.int64(2), axis=[np.int64(1)])
    assert layer(torch.randn(SHAPE)).shape == SHAPE
