"""One of two processes that normalize a DTensor, replicated or sharded, and compare it with a plain tensor."""

import copy
import sys
from typing import Any

import torch
from torch.distributed.tensor import Replicate, Shard, distribute_module, distribute_tensor, init_device_mesh

import batchnorm.torch as bt

SMALL, LARGE = (8, 4, 3, 6), (64, 4, 32, 32)
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "renorm": {"renorm": True},
    "zero debias": {"zero_debias": True},
    "interleaved": {"virtual_batch_size": 2},
    "contiguous": {"virtual_batch_size": 4, "ghost_order": "contiguous"},
    "last axis": {"axis": -1, "num_features": 6},
}


def main(rank: int, store: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for name, asked in OPTIONS.items():
        for shape in (SMALL, LARGE) if name in ("plain", "contiguous") else (SMALL,):
            for memory in (torch.contiguous_format, torch.channels_last):
                for placement in (Replicate(), Shard(0)):
                    what = f"{name} {shape} {memory} {placement}"
                    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 2 + 1
                    compare(
                        bt.BatchNorm2d(**{"num_features": 4, **asked}),
                        x.to(memory_format=memory),
                        mesh,
                        placement,
                        what,
                    )
    torch.distributed.destroy_process_group()


def compare(layer: Any, x: torch.Tensor, mesh: Any, placement: Any, what: str) -> None:
    plain = copy.deepcopy(layer)
    distribute_module(layer, mesh)
    for training in (True, False):
        y, want = (each.train(training) for each in (layer, plain))
        y, want = y(distribute_tensor(x, mesh, [placement])), want(x)
        same(y, want, what)
        assert not y._is_view(), what
    for key, value in layer.named_buffers():
        same(value, plain.get_buffer(key), f"{what} {key}")


def same(value: Any, want: torch.Tensor, what: str) -> None:
    torch.testing.assert_close(
        value.full_tensor(), want, rtol=1e-4, atol=1e-4, msg=lambda message: f"{what}: {message}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
    print("equal")
