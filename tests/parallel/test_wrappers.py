"""Losses over processes within torch's own wrappers: three steps are those of one process.

DistributedDataParallel, and FSDP2 on the CPU, take the mean over ranks of the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import Ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import sslkern

SPLITS = ([6], [3, 3], [5, 1], [3, 0, 1, 2])
STEPS = 3
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-10}
WRAPPERS = ("DistributedDataParallel", "fully_shard")


class Model(nn.Module):
    """Two views by one encoder, and the numbers that a loss learns."""

    def __init__(self, **numbers: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 4))
        # FSDP2 takes no parameters without a dimension.
        self.numbers = nn.ParameterDict(
            {k: nn.Parameter(torch.tensor([v])) for k, v in numbers.items()}
        )

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, ...]:
        # Gathered parameters are only there within the forward pass.
        return self.layers(a), self.layers(b), *(x * 1 for x in self.numbers.values())


def ntxent(z: list[Tensor], labels: Tensor, temperature: Tensor, **sharing: Any) -> Tensor:
    return sslkern.ntxent_loss(*z, temperature, **sharing)


def clip(z: list[Tensor], labels: Tensor, scale: Tensor, **sharing: Any) -> Tensor:
    return sslkern.clip_loss(*map(F.normalize, z), scale.exp(), **sharing)


def siglip(z: list[Tensor], labels: Tensor, scale: Tensor, bias: Tensor, **sharing: Any) -> Tensor:
    return sslkern.siglip_loss(*map(F.normalize, z), scale.exp(), bias, **sharing)


def supcon(z: list[Tensor], labels: Tensor, temperature: Tensor, **sharing: Any) -> Tensor:
    return sslkern.supcon_loss(torch.stack(z, 1), labels, temperature, **sharing)


def swav(z: list[Tensor], labels: Tensor, **sharing: Any) -> Tensor:
    return sslkern.swav_loss([x / 8 for x in z], **sharing)


LOSSES: dict[str, tuple[Callable[..., Tensor], dict[str, float]]] = {
    "ntxent": (ntxent, {"temperature": 0.4}),
    "clip": (clip, {"scale": 1.0}),
    "siglip": (siglip, {"scale": 1.0, "bias": -1.0}),
    "supcon": (supcon, {"temperature": 0.5}),
    "swav": (swav, {}),
}
STRATEGIES = {"swav": ("gather",)}


def every_case() -> list[Any]:
    return [
        pytest.param(name, strategy, split, id=f"{name}-{strategy}-{split}")
        for name in LOSSES
        for strategy in STRATEGIES.get(name, ("gather", "ring"))
        for split in SPLITS
    ]


def wrapped(model: Model, how: str, group: dist.ProcessGroup) -> nn.Module:
    if how == "DistributedDataParallel":
        return DistributedDataParallel(model, process_group=group)
    mesh = DeviceMesh.from_group(group, "cpu")
    for layer in (model.layers[0], model.layers[2]):
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def views(rows: int, dtype: torch.dtype) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randn(2, rows, 5, generator=g, dtype=torch.float64).to(dtype)


def steps(
    name: str, x: Tensor, wrap: Callable[[Model], nn.Module], **sharing: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses and parameters."""
    loss, numbers = LOSSES[name]
    labels = (x[0, :, 0] > 0).long()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = wrap(Model(**numbers).to(x.dtype))
    optimizer = torch.optim.SGD(model.parameters(), 0.02, momentum=0.9)
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        a, b, *learnt = model(*x)
        value = loss([a, b], labels, *learnt, **sharing)
        value.backward()
        optimizer.step()
        losses.append(value.detach())
    found = {k.removeprefix("module."): p.detach() for k, p in model.named_parameters()}
    whole = {k: p.full_tensor() if hasattr(p, "full_tensor") else p for k, p in found.items()}
    return torch.stack(losses), whole


def steps_of_rank(
    group: dist.ProcessGroup,
    name: str,
    split: list[int],
    dtype: torch.dtype,
    how: str,
    strategy: str,
) -> tuple[Tensor, dict[str, Tensor]]:
    x = views(sum(split), dtype).split(split, 1)[dist.get_rank(group)]
    sharing: dict[str, Any] = {"gather_distributed": True, "process_group": group}
    if name not in STRATEGIES:
        sharing["strategy"] = strategy
    return steps(name, x, lambda model: wrapped(model, how, group), **sharing)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("how", WRAPPERS)
@pytest.mark.parametrize(("name", "strategy", "split"), every_case())
def test_steps_are_those_of_one_process(
    ranks: Ranks, name: str, strategy: str, split: list[int], how: str, dtype: torch.dtype
) -> None:
    found = ranks.run(len(split), steps_of_rank, name, split, dtype, how, strategy)
    losses, parameters = steps(name, views(sum(split), dtype), lambda model: model)
    bound = TOLERANCE[dtype]
    for their_losses, theirs in found:
        torch.testing.assert_close(their_losses, losses, rtol=bound, atol=bound)
        assert list(theirs) == list(parameters)
        for key, value in parameters.items():
            torch.testing.assert_close(theirs[key], value, rtol=0, atol=bound, msg=key)
