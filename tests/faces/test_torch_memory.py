"""What programs do with a layer's memory: free storages, change outputs in place, pass other kinds of tensors."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import batchnorm
import batchnorm.torch as bt
from tolerances import assert_close

pytestmark = pytest.mark.needs("torch")

PROGRAM = Path(__file__).parents[1] / "programs" / "torch_distributed_tensors.py"
SHAPE = (8, 4, 3, 6)
LARGE = (64, 4, 32, 32)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "population": {"variance": "population"},
    "renorm": {"renorm": True},
    "debiased": {"renorm": True, "renorm_form": "debiased"},
    "schedule": {"renorm": True, "renorm_clipping": bt.clipping_schedule(1, 3.0, 3, 5.0, 2)},
    "zero debias": {"zero_debias": True},
    "plain average": {"momentum": None, "variance": "population"},
    "interleaved": {"virtual_batch_size": 2},
    "contiguous": {"virtual_batch_size": 4, "ghost_order": "contiguous"},
    "ghosts and renorm": {"virtual_batch_size": 2, "renorm": True},
    "adjustment": {"adjustment": lambda shape: (torch.linspace(0.5, 2, shape[0]).reshape(-1, 1, 1, 1), 0.5)},
    "two axes": {"axis": (1, 3)},
    "last axis": {"axis": -1},
    "plain operations": {"fused": False},
}
MEMORY = {
    "contiguous": lambda x: x,
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "with gaps": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "transposed": lambda x: x.mT.contiguous().mT,
}


def layer_of(name: str, **more: Any) -> Any:
    return bt.BatchNorm2d({"two axes": 24, "last axis": 6}.get(name, 4), **OPTIONS[name], **more)


def normal(shape: Any = SHAPE, seed: int = 0) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


@pytest.mark.parametrize("masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("name", OPTIONS)
def test_storages_can_be_freed(name: str, masked: bool) -> None:
    """FSDP frees those of parameters while other layers run."""
    layer, mask = layer_of(name), torch.arange(8) != 3 if masked else None
    x = normal().requires_grad_()
    y = layer(x, mask=mask)
    dy = torch.ones_like(y)
    y.backward(dy)
    (dx,) = torch.autograd.grad(layer(x, mask=mask).pow(2).sum(), x, create_graph=True)
    dx.sum().backward()
    layer.eval()(x).sum().backward()
    tensors = dict([*layer.named_parameters(), *layer.named_buffers()])
    tensors |= {f"{name}.grad": value.grad for name, value in layer.named_parameters()}
    for key, value in (tensors | {"x": x, "dx": x.grad, "y": y, "dy": dy}).items():
        value.untyped_storage().resize_(0)
        assert value.untyped_storage().size() == 0, key


@pytest.mark.parametrize("memory", MEMORY)
@pytest.mark.parametrize("name", OPTIONS)
def test_outputs_are_not_views(name: str, memory: str) -> None:
    """Otherwise an in-place activation after the layer would copy whole gradients."""
    for shape in (SHAPE, LARGE) if name in ("plain", "interleaved", "contiguous") else (SHAPE,):
        for training, fused in ((True, None), (True, False), (False, None)):
            layer = layer_of(name, **({} if name == "plain operations" else {"fused": fused}))
            x = MEMORY[memory](normal(shape))
            for mask in (None, torch.arange(shape[0]) != 3):
                given = x.detach().requires_grad_()
                with torch.no_grad():
                    assert not copy.deepcopy(layer).train(training)(given, mask=mask)._is_view()
                layers = [copy.deepcopy(layer).train(training) for _ in range(2)]
                y, want = (each(given, mask=mask) for each in layers)
                assert not y._is_view()
                assert y._base is None
                z = torch.relu_(y)
                assert "ReluBackward" in z.grad_fn.name()
                (dx,), (expected,) = (
                    torch.autograd.grad(out.pow(2).sum(), given) for out in (z, torch.relu(want))
                )
                assert_close(dx, expected, "float32", "dx", scale=1 + expected.abs().max())


@pytest.mark.parametrize("ghost", [None, batchnorm.Ghost(2)], ids=str)
@pytest.mark.parametrize("axes", [(1,), (-1,), (1, 3)])
@pytest.mark.parametrize("memory", MEMORY)
def test_outputs_of_the_pure_function_are_not_views(memory: str, axes: Any, ghost: Any) -> None:
    for renorm in (None, batchnorm.Renorm()):
        for fused in (None, False):
            options = batchnorm.Options(axes, ghost=ghost, renorm=renorm, fused=fused)
            x = MEMORY[memory](normal()).requires_grad_()
            params, state = batchnorm.init(options, SHAPE, like=x)
            for training in (True, False):
                y, _ = batchnorm.batch_norm(x, params, state, options, training=training)
                assert not y._is_view()


@pytest.mark.parametrize("shape", [SHAPE, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_gradient_of_an_evaluation_survives_training(name: str, shape: Any) -> None:
    """Training moves the statistics that the evaluation read."""
    layer = layer_of(name) if shape == SHAPE else bt.BatchNorm2d(4, **OPTIONS["plain"])
    x = normal(shape).requires_grad_()
    layer(normal(shape, seed=1))
    y = layer.eval()(x)
    (expected,) = torch.autograd.grad(y.pow(2).sum(), x, retain_graph=True)
    layer.train()(normal(shape, seed=2) * 5)
    (dx,) = torch.autograd.grad(y.pow(2).sum(), x)
    assert torch.equal(dx, expected)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "plain"])
def test_pytorch_is_told_of_what_a_step_writes(name: str) -> None:
    layer = layer_of(name)
    for _ in range(2):
        before = {key: (value._version, value.clone()) for key, value in layer.named_buffers()}
        layer(normal())
        for key, (version, old) in before.items():
            value = dict(layer.named_buffers())[key]
            assert torch.equal(value, old) or value._version > version, key


class Wrapper(torch.Tensor):
    """Keeps its numbers in another tensor, as DTensor does; there is nothing at its own address."""

    held: Any

    @staticmethod
    def __new__(cls, held: Any) -> Any:
        return torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, requires_grad=held.requires_grad
        )

    def __init__(self, held: Any) -> None:
        self.held = held

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tree_map = torch.utils._pytree.tree_map
        args, kwargs = tree_map(lambda v: v.held if isinstance(v, cls) else v, (args, kwargs or {}))
        return tree_map(lambda v: cls(v) if type(v) is torch.Tensor else v, func(*args, **kwargs))


@pytest.mark.parametrize("whole", [False, True], ids=["inputs", "layers and inputs"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
@pytest.mark.parametrize("name", OPTIONS)
def test_tensors_that_keep_their_numbers_elsewhere(name: str, large: bool, whole: bool) -> None:
    if large and name not in ("plain", "interleaved", "contiguous"):
        pytest.skip("one way for all sizes")
    layer = layer_of(name)
    plain, shape = copy.deepcopy(layer), LARGE if large else SHAPE
    if whole:
        for key, value in layer.named_parameters():
            setattr(layer, key, torch.nn.Parameter(Wrapper(value.detach())))
        for key, value in layer.named_buffers():
            setattr(layer, key, Wrapper(value))
    for seed in range(2):
        x = normal(shape, seed)
        given, wanted = Wrapper(x).requires_grad_(), x.clone().requires_grad_()
        y, want = layer(given), plain(wanted)
        (dx,), (expected,) = (
            torch.autograd.grad(out.pow(2).sum(), of) for out, of in ((y, given), (want, wanted))
        )
        assert_close(y.held.detach(), want.detach(), "float32", "y", within=1e-5)
        assert_close(dx.held, expected, "float32", "dx", scale=10.0)
    for key, value in layer.named_buffers():
        value = getattr(value, "held", value)
        assert_close(value.double(), dict(plain.named_buffers())[key].double(), "float32", key, within=1e-5)


@pytest.fixture
def alone(tmp_path: Any) -> Any:
    """A group of one process."""
    dist = torch.distributed
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("alone")
@pytest.mark.parametrize("version", [1, 2])
def test_sharded_parameters(version: int) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    for name in ("plain", "population", "renorm", "schedule", "zero debias", "interleaved"):
        layers = torch.nn.Conv2d(3, 4, 1), layer_of(name), torch.nn.Conv2d(4, 2, 1)
        model = torch.nn.Sequential(*layers)
        plain = copy.deepcopy(model)
        if version == 1:
            wrapped: Any = FullyShardedDataParallel(
                model, device_id=torch.device("cpu"), use_orig_params=True
            )
        else:
            wrapped = fully_shard(torch.nn.Sequential(*map(fully_shard, layers)))
        for each in (wrapped, plain):
            optimizer = torch.optim.SGD(each.parameters(), 0.1)
            for seed in range(3):
                optimizer.zero_grad()
                each(normal((8, 3, 2, 2), seed)).pow(2).sum().backward()
                optimizer.step()
        x = normal((8, 3, 2, 2))
        assert_close(wrapped.eval()(x).detach(), plain.eval()(x).detach(), "float32", name, scale=10.0)


def test_distributed_tensors(tmp_path: Any) -> None:
    """Over two processes: PyTorch's own layer loses what is written into statistics that it redistributes."""
    dist = torch.distributed
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("needs torch.distributed with gloo")
    program = [sys.executable, str(PROGRAM)]
    processes = [
        subprocess.Popen(
            [*program, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        assert "equal" in output
