"""Rows for PyTorch: each touches names of `batchnorm._engines.torch.private`."""

from typing import Any

from unit.private_rows import touches


@touches("torch", "in_transform", "inside torch.func's transforms, plain operations are used")
def transforms(private: Any) -> None:
    import torch

    seen = []
    assert not private.in_transform()
    torch.func.vmap(lambda x: seen.append(private.in_transform()) or x)(torch.ones(2))
    assert seen == [True]


@touches("torch", "in_forward_mode", "tangents are computed by plain operations")
def forward_mode(private: Any) -> None:
    from torch.autograd import forward_ad

    assert not private.in_forward_mode()
    with forward_ad.dual_level():
        assert private.in_forward_mode()


@touches("torch", "is_recording_trace", "torch.jit.trace records plain operations")
def traces(private: Any) -> None:
    import torch

    seen = []
    assert not private.is_recording_trace()
    torch.jit.trace(lambda x: seen.append(private.is_recording_trace()) or x + 1, torch.ones(2))
    assert True in seen


@touches("torch", "is_watched", "modes that see each operation see PyTorch's own")
def modes(private: Any) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    assert not private.is_watched()
    with FlopCounterMode(display=False):
        assert private.is_watched()


@touches("torch", "has_storage is_zero_tensor", "kernels read by address only what is at an address")
def memory(private: Any) -> None:
    import torch

    x = torch.ones(2)
    assert private.has_storage(x)
    assert not private.is_zero_tensor(x)
    assert private.is_zero_tensor(torch._efficientzerotensor(2))
    assert not private.has_storage(torch.eye(2).to_sparse())


@touches("torch", "is_view unsafe_view", "outputs are no views, so that activations may work in place")
def views(private: Any) -> None:
    import torch

    x = torch.ones(2, 3)
    assert private.is_view(x.view(6))
    changed = private.unsafe_view(x, (6,))
    assert changed.shape == (6,)
    assert changed.data_ptr() == x.data_ptr()
    assert not private.is_view(changed)


@touches("torch", "is_mapped", "a layer refuses to write one set of statistics for each example of a map")
def maps(private: Any) -> None:
    import torch

    seen = []
    assert not private.is_mapped(torch.ones(2))
    torch.func.vmap(lambda x: seen.append(private.is_mapped(x)) or x)(torch.ones(2))
    assert seen == [True]


@touches("torch", "buffers_of", "statistics that a program has taken away are noticed")
def buffers(private: Any) -> None:
    import torch

    layer = torch.nn.BatchNorm1d(2)
    layer.running_mean = None
    assert set(private.buffers_of(layer)) == {"running_mean", "running_var", "num_batches_tracked"}
    assert private.buffers_of(layer)["running_mean"] is None


@touches("torch", "children_of", "a joined forward method notices children that a program has taken away")
def children(private: Any) -> None:
    import torch

    pair = torch.nn.Sequential(*[torch.nn.ReLU()] * 2)
    pair.extra = None
    pair.register_module("gone", None)
    assert list(private.children_of(pair).items()) == [("0", pair[0]), ("1", pair[0]), ("gone", None)]


@touches("torch", "is_hooked", "modules with hooks are called one by one")
def hooks(private: Any) -> None:
    import torch
    from torch.nn.modules import module as modules

    for register in (
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
    ):
        layer = torch.nn.ReLU()
        assert not private.is_hooked(layer)
        handle = getattr(layer, register)(lambda *_: None)
        assert private.is_hooked(layer)
        handle.remove()
        assert not private.is_hooked(layer)
    layer.compile()
    assert private.is_hooked(layer)
    layer = torch.nn.ReLU()
    handle = modules.register_module_forward_hook(lambda *_: None)
    assert private.is_hooked(layer)
    handle.remove()


@touches("torch", "BatchNorm", "layers are found by what torch.nn's have in common, SyncBatchNorm included")
def base(private: Any) -> None:
    import torch

    assert issubclass(torch.nn.SyncBatchNorm, private.BatchNorm)
    assert issubclass(torch.nn.BatchNorm2d, private.BatchNorm)


@touches(
    "torch", "version_of", "what was computed from moving statistics is computed again if they have moved"
)
def versions(private: Any) -> None:
    import torch

    x = torch.ones(2)
    before = private.version_of(x)
    x.add_(1.0)
    assert private.version_of(x) > before


@touches("torch", "fuser_methods", "fuse_modules folds our layers")
def fusers(private: Any) -> None:
    import torch

    assert (torch.nn.Conv2d, torch.nn.BatchNorm2d) in private.fuser_methods()


@touches("torch", "in_compiled_checkpoint", "renorm is not run again on averages that have moved")
def compiled_checkpoints(private: Any) -> None:
    import torch
    from torch.utils.checkpoint import checkpoint

    def found(x: Any) -> Any:
        return x + 1 if private.in_compiled_checkpoint() else x + 2

    within = torch.compile(lambda x: checkpoint(found, x, use_reentrant=False), backend="eager")
    assert within(torch.zeros(1)) == 1
    assert torch.compile(found, backend="eager")(torch.zeros(1)) == 2
