"""What DistributedDataParallel and FSDP2 need where a step has several backward passes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel


def wrappers_among(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that average the gradients of their parameters over ranks."""
    found: dict[nn.Module, None] = {}
    for module in modules:
        found |= dict.fromkeys(m for m in module.modules() if _is_ddp(m) or _is_fsdp(m))
    return list(found)


def groups_of(wrappers: Iterable[nn.Module]) -> list[Any]:
    """The process groups that they use."""
    found: list[Any] = []
    for wrapper in wrappers:
        groups = [wrapper.process_group] if _is_ddp(wrapper) else _groups_of_mesh(wrapper)
        found += [group for group in groups if group not in found]
    return found


def need_as_many_calls(wrappers: Iterable[nn.Module]) -> bool:
    """Whether the ranks meet in each forward pass: for parameters, or for moments of a batch."""
    within = (m for wrapper in wrappers for m in wrapper.modules())
    return any(_is_fsdp(m) or isinstance(m, nn.SyncBatchNorm) for m in within)


@contextlib.contextmanager
def gradients_stay(wrappers: Iterable[nn.Module]) -> Iterator[None]:
    """A context in which backward passes add up the gradients of this rank alone."""
    with contextlib.ExitStack() as stack:
        for wrapper in wrappers:
            if isinstance(wrapper, DistributedDataParallel):
                stack.enter_context(wrapper.no_sync())
            else:
                switch: Any = wrapper.set_requires_gradient_sync
                switch(False, recurse=False)
                stack.callback(switch, True, recurse=False)
        yield


def pending_broadcasts(wrappers: Iterable[nn.Module]) -> list[DistributedDataParallel]:
    """Those of which the next forward pass takes the first rank's buffers."""
    ddp = [w for w in wrappers if isinstance(w, DistributedDataParallel)]
    return [w for w in ddp if w.require_forward_param_sync]


def has_static_graph(module: nn.Module) -> bool:
    """Whether torch refuses that its first backward passes leave the gradients alone."""
    return isinstance(module, DistributedDataParallel) and module.static_graph


def is_fsdp1(module: nn.Module) -> bool:
    """Whether it is of the older class of FSDP."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FullyShardedDataParallel)


def _is_ddp(module: nn.Module) -> bool:
    return isinstance(module, DistributedDataParallel)


def _is_fsdp(module: nn.Module) -> bool:
    # To import it takes seconds, and where nobody has, nothing is of its classes.
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def _groups_of_mesh(module: Any) -> list[Any]:
    module.reshard()  # gathered parameters are plain tensors, which do not know their mesh
    meshes = dict.fromkeys(p.device_mesh for p in module.parameters() if hasattr(p, "device_mesh"))
    return [mesh.get_group(d) for mesh in meshes for d in range(mesh.ndim)]
