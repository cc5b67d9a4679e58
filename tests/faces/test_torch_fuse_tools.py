"""Models converted with `fuse=True` under PyTorch's compilers, exporters, checkpointing and wrappers."""

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm.torch as bt
from batchnorm._engines.torch.dispatch import LARGE_INPUT
from faces.fusable import BasicBlock, ConvNormActivation, ResNet, images, made

pytestmark = [
    pytest.mark.needs("torch"),
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
    ),
]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """A kink that rounding puts on either side would be met by chance otherwise."""
    torch.manual_seed(0)


def pair(name: str = "ResNet of basic blocks") -> tuple[nn.Module, nn.Module]:
    plain = bt.convert(made(name))
    return plain, bt.convert(copy.deepcopy(plain), fuse=True)


def assert_same(model: Any, plain: nn.Module, x: Any, held: nn.Module | None = None) -> None:
    torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)
    buffers = zip((held or model).named_buffers(), plain.named_buffers(), strict=True)
    for (name, one), (_, other) in buffers:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("make", [BasicBlock, lambda *_: ConvNormActivation(3, 3, 1, nn.Hardswish)])
def test_compiled_programs_train_as_before(make: Any) -> None:
    torch._dynamo.reset()
    plain = bt.convert(make(3, 3))
    model = bt.convert(copy.deepcopy(plain), fuse=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for seed in range(2):
        x, results = images(6, seed), []
        for each in (compiled, plain):
            each.zero_grad()
            each(x).square().sum().backward()
            results.append([parameter.grad for parameter in each.parameters()])
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
    assert_same(compiled, plain, images(8), model)


def test_exported_programs_hold_standard_operations() -> None:
    plain, model = pair()
    x = images()
    for training in (False, True):
        exported = torch.export.export(copy.deepcopy(model).train(training), (x,))
        assert all("aten" in str(node.target) for node in exported.graph.nodes if node.op == "call_function")
        program = exported.module()
        torch.testing.assert_close(program(x), copy.deepcopy(plain).train(training)(x), rtol=1e-4, atol=1e-4)


def test_jit_traces_the_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model = pair()
    given: list[Any] = []
    original = bt._layers.Layer.forward

    def forward(layer: Any, x: Any, *rest: Any, **named: Any) -> Any:
        given.append(named)
        return original(layer, x, *rest, **named)

    monkeypatch.setattr(bt._layers.Layer, "forward", forward)
    traced = torch.jit.trace(copy.deepcopy(model).eval(), images(), check_trace=False)
    assert given
    assert not any(given)
    torch.testing.assert_close(traced(images(3)), plain.eval()(images(3)), rtol=1e-4, atol=1e-4)


def test_onnx_holds_standard_operations() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    _, model = pair()
    model.eval()
    file = io.BytesIO()
    torch.onnx.export(model, (images(),), file, dynamo=True, verbose=False)
    held = onnx.load_from_string(file.getvalue())
    assert {each.domain for each in held.graph.node} <= {"", "pkg.onnxscript.torch_lib"}
    session = runtime.InferenceSession(file.getvalue())
    (found,) = session.run(None, {session.get_inputs()[0].name: images().numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(images()).detach(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_blocks(reentrant: bool) -> None:
    plain, model = (bt.convert(BasicBlock(3, 3), fuse=fuse) for fuse in (False, True))
    model.load_state_dict(plain.state_dict())
    results = []
    for each in (plain, model):
        x = images().requires_grad_()
        contexts = {} if reentrant else {"context_fn": bt.checkpoint_contexts}
        with bt.frozen_statistics():
            y = checkpoint(each, x, use_reentrant=reentrant, **contexts)
            y.square().sum().backward()
        results.append([x.grad, *(parameter.grad for parameter in each.parameters())])
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


def test_frozen_parameters() -> None:
    plain, model = pair()
    for each in (plain, model):
        each.requires_grad_(False)
        each.fc.requires_grad_(True)
        each(images()).sum().backward()
        assert [name for name, value in each.named_parameters() if value.grad is not None] == [
            "fc.weight",
            "fc.bias",
        ]
    torch.testing.assert_close(model.fc.weight.grad, plain.fc.weight.grad, rtol=1e-4, atol=1e-4)


def test_under_transforms() -> None:
    plain, model = pair()
    plain.eval(), model.eval()
    x = images()
    for each in (torch.func.vmap, torch.func.jacrev):
        if each is torch.func.vmap:
            found, want = (torch.func.vmap(lambda a, m=m: m(a[None]))(x) for m in (model, plain))
        else:
            found, want = (torch.func.jacrev(lambda a, m=m: m(a).sum())(x) for m in (model, plain))
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
    found, want = (
        torch.func.functional_call(each, dict(plain.state_dict()), (x,)) for each in (model, plain)
    )
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_and_memory_formats(dtype: Any) -> None:
    plain, model = pair()
    for each in (plain, model):
        each.to(dtype).to(memory_format=torch.channels_last)
    x = images().to(dtype).contiguous(memory_format=torch.channels_last)
    tolerance = 1e-6 if dtype is torch.float64 else 0.1
    torch.testing.assert_close(model(x), plain(x), rtol=tolerance, atol=tolerance)


def test_autocast() -> None:
    plain, model = pair()
    with torch.autocast("cpu", torch.bfloat16):
        found, want = model(images()), plain(images())
    assert found.dtype is want.dtype
    torch.testing.assert_close(found, want, rtol=0.1, atol=0.1)


def test_wrappers_that_derive_classes_or_share_tensors() -> None:
    """As FSDP's `fully_shard` derives a class of each module, and DataParallel copies its attributes."""
    plain, model = pair()
    block: Any = model.layer1[0]
    block.__class__ = type(f"FSDP{type(block).__name__}", (type(block),), {})
    replica = model._replicate_for_data_parallel()
    assert isinstance(block, BasicBlock)
    assert isinstance(replica, ResNet)
    assert_same(model, plain, images())
    averaged = torch.optim.swa_utils.AveragedModel(bt.convert(ResNet(), fuse=True))
    assert isinstance(averaged.module, ResNet)
    assert len([each for each in bt.joined(averaged) if each.activation]) == 9


def test_lazy_layers_are_joined_once_they_know_their_sizes() -> None:
    model = bt.convert(nn.Sequential(nn.LazyBatchNorm2d(), nn.ReLU()), fuse=True)
    plain = nn.Sequential(bt.BatchNorm2d(3), nn.ReLU())
    assert [each.reason for each in bt.joined(model)] == [None]
    for seed in range(2):
        assert_same(model, plain, images(6, seed))
    bt.convert(model, back=True)
    assert [type(each) for each in model.modules()] == [nn.Sequential, nn.BatchNorm2d, nn.ReLU]


def test_large_inputs_and_gradients() -> None:
    """Sizes that our kernels take; `sum` gives every number the same gradient, so squares are summed."""
    plain, model = (bt.convert(BasicBlock(8, 8), fuse=fuse) for fuse in (False, True))
    model.load_state_dict(plain.state_dict())
    x = torch.randn(8, 8, 64, 64)
    assert x.numel() >= LARGE_INPUT
    results = []
    for each in (plain, model):
        given = x.clone().requires_grad_()
        each(given).square().mean().backward()
        results.append([given.grad, *(parameter.grad for parameter in each.parameters())])
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-5)
    assert_same(model, plain, x)
