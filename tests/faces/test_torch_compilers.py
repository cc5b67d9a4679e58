"""Training steps that PyTorch compiles or exports: the state that they read and write."""

import copy
import io
from typing import Any

import pytest
import torch

import batchnorm.torch as bt
from tolerances import assert_close

pytestmark = pytest.mark.needs("torch")

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "renorm": {"renorm": True},
    "bounds": {"renorm": True, "renorm_clipping": {"rmax": 3.0, "rmin": 1 / 3, "dmax": 5.0}},
    "debiased": {"renorm": True, "renorm_form": "debiased"},
    "schedule": {"renorm": True, "renorm_clipping": bt.clipping_schedule(1, 3.0, 3, 5.0, 2)},
    "plain average": {"renorm": True, "momentum": None},
    "zero debias": {"zero_debias": True},
    "ghosts": {"virtual_batch_size": 2},
    "ghosts and renorm": {"virtual_batch_size": 2, "renorm": True},
    "plain operations": {"renorm": True, "fused": False},
}
# A ghost batch without any weight, which the moving statistics normalize; and a batch without any.
MASK, NOTHING = torch.arange(6) % 3 != 1, torch.arange(6) < 0
CALLS = (
    ("renorm", None),
    ("bounds", None),
    ("debiased", MASK),
    ("schedule", None),
    ("zero debias", None),
    ("ghosts", MASK),
    ("plain", NOTHING),
    ("plain operations", None),
)


class Layers(torch.nn.Module):
    """All in one graph, which compiles in little more time than one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            bt.BatchNorm1d(3, dtype=torch.float64, momentum=0.5, **OPTIONS[name]) for name, _ in CALLS
        )

    def forward(self, x: Any) -> list[Any]:
        return [layer(x, mask=mask) for layer, (_, mask) in zip(self.layers, CALLS, strict=True)]


# The second recomputes what TorchInductor does, but compiles no machine code.
@pytest.mark.parametrize("backend", ["aot_eager", "aot_eager_decomp_partition"])
def test_the_gradient_uses_the_state_that_was_read(backend: str) -> None:
    """By the backward pass the step has moved it, and compilers recompute what is cheap."""
    torch._dynamo.reset()
    model = Layers()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend=backend)
    slopes = torch.linspace(-1, 2, 18, dtype=torch.float64).reshape(6, 3)
    for seed in range(2):
        x = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 4 + seed
        found = []
        for each in (compiled, model):
            given = x.clone().requires_grad_()
            wanted = [given, *each.parameters()]
            outputs = each(given)
            loss = sum((y * slopes).sum() for y in outputs)
            found.append([*outputs, *torch.autograd.grad(loss, wanted), *each.buffers()])
        for got, want in zip(*found, strict=True):
            assert_close(got.detach(), want.detach(), "float64", "", scale=10.0, within=1e-10)


def test_a_compiled_gradient_in_numbers() -> None:
    torch._dynamo.reset()
    layer = bt.BatchNorm1d(1, renorm=True)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager_decomp_partition")
    x = torch.tensor([[0.0], [20.0], [10.0], [14.0]], requires_grad=True)
    (dx,) = torch.autograd.grad(compiled(x)[0, 0], x)
    assert_close(dx[0, 0], torch.tensor(0.17925), "float32", "", within=1e-5)


@pytest.mark.parametrize("name", ["plain", "ghosts", "renorm"])
def test_changing_batches_take_no_more_graphs_than_pytorchs_layers(name: str) -> None:
    """On both sides of the size from which our kernels pay off."""

    def graphs(make: Any) -> int:
        torch._dynamo.reset()
        compiled_graphs: list[Any] = []

        def backend(graph: Any, example: Any) -> Any:
            compiled_graphs.append(graph)
            return graph

        layers = [layer for _ in range(3) for layer in (torch.nn.Conv2d(3, 3, 1), make(3))]
        compiled = torch.compile(torch.nn.Sequential(*layers), backend=backend)
        for batch in (2, 10, 18, 42, 58):
            compiled(torch.randn(batch, 3, 48, 48))
        return len(compiled_graphs)

    assert graphs(lambda size: bt.BatchNorm2d(size, **OPTIONS[name])) <= graphs(torch.nn.BatchNorm2d)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("strict", [True, False], ids=["strict", ""])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_exported_training_step_is_saved_and_loaded(name: str, strict: bool) -> None:
    torch.manual_seed(0)
    layer = bt.BatchNorm1d(3, **OPTIONS[name])
    x, mask = torch.randn(6, 3), MASK if name != "plain" else None
    program = torch.export.export(layer, (x, None, mask), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for factor in (1.0, 2.0):
        given = (x * factor).requires_grad_()
        y, want = loaded(given, None, mask), layer(given, None, mask)
        assert_close(y.detach(), want.detach(), "float32", "y", within=1e-5)
        dx, expected = (torch.autograd.grad(out.pow(2).sum(), given)[0] for out in (y, want))
        assert_close(dx, expected, "float32", "dx", scale=10.0)
    state = loaded.state_dict()
    for key, value in layer.state_dict().items():
        assert_close(state[key].double(), value.double(), "float32", key, within=1e-5)
