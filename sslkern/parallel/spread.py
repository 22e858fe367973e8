"""Modules that all ranks call alike and of whose rows each computes a part."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from sslkern.ops._common import refuse
from sslkern.parallel.batch_norm import MOMENTS, batch_norm
from sslkern.parallel.gradients import gather_rows
from sslkern.parallel.nested import map_tensors, tensors_within
from sslkern.parallel.processes import Processes, Sharing

_OP = "SpreadRows"


class LostRankError(RuntimeError):
    """A rank has ended, died or hangs: a collective failed on this one."""


class PartsOfRows(Processes):
    """The ranks of a group, of which each has a part of ``rows`` rows, as equal as can be."""

    def __init__(self, group: Any, rows: int = 0) -> None:
        super().__init__(_OP, Sharing(True, group), {})
        most, more = divmod(rows, self.size)
        counts = [most + (rank < more) for rank in range(self.size)]
        self.rows = {"rows": counts, MOMENTS: [1] * self.size}

    def run(self, what: str, call: Callable[[], Any]) -> Any:
        """As `Processes.run`, with an error of a class of its own."""
        try:
            return super().run(what, call)
        except RuntimeError as error:
            raise LostRankError(str(error)) from error


class SpreadRows:
    """A context in which ranks share the work of modules whose arguments all of them have.

    Each rank must call the modules in the same order with the same arguments. It computes its part
    of the rows alone and gets the outputs of all rows, so that whatever follows is the same on all
    ranks, and nothing but the modules need know that there are several. The rows are those of the
    first tensor among the arguments; of the others those are split that have as many. Batch norms
    normalize by all rows.

    Gradients of parameters, of the modules and of all else, must be averaged over the ranks: the
    mean is what one process would have got.

    A module that cannot be split runs whole on each rank, which is right, but no faster: where
    there are fewer rows than ranks, or an argument beside the first one is square in its first two
    dimensions and as large as the rows, which may be a mask of words and words.

    Args:
        modules: Map rows to as many rows, each by itself but for batch norms: tensors, lists,
            tuples or dictionaries of them. None of them is within another one. Batch norms must not
            run again in the backward pass, as activation checkpointing has them.
        process_group: The ranks; all if not given.

    Raises:
        ValueError: Within the context, if a module returns another number of rows, or draws random
            numbers, which would not be those of one process.

    Example:
        >>> import torch.distributed as dist
        >>> from sslkern.parallel.spread import SpreadRows
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> encoder = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4))
        >>> with SpreadRows([encoder]):
        ...     z = encoder(torch.rand(6, 8))
        >>> z.shape
        torch.Size([6, 4])
        >>> dist.destroy_process_group()
    """

    def __init__(self, modules: Iterable[nn.Module], process_group: Any = None) -> None:
        self._spread = [(module, _Spread(module, process_group)) for module in modules]

    def __enter__(self) -> None:
        """Spread the rows from now on."""
        # An attribute of the instance: modules, and so the names of their state, stay as they are.
        for module, spread in self._spread:
            module.forward = spread

    def __exit__(self, *exception: object) -> None:
        """Let each module run whole again."""
        for module, _ in self._spread:
            del module.forward


class _Spread:
    """The forward pass of a module in that context."""

    def __init__(self, module: nn.Module, group: Any) -> None:
        self._forward = module.forward
        self._group = group

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        tensors = list(tensors_within((args, kwargs)))
        if not _can_be_split(tensors, dist.get_world_size(self._group)):
            return self._forward(*args, **kwargs)
        rows = len(tensors[0])
        ranks = PartsOfRows(self._group, rows)
        first, count = ranks.offset("rows"), ranks.rows["rows"][ranks.rank]

        def part(x: Tensor) -> Tensor:
            return x.narrow(0, first, count) if x.dim() and len(x) == rows else x

        def gathered(x: Tensor) -> Tensor:
            if x.dim() == 0 or len(x) != count:
                requirement = f"of {count} rows, as its input"
                refuse(_OP, "what a module returns", requirement, f"shape {tuple(x.shape)}")
            # As a matrix: the gradient of maps may have its channels last, and collectives read
            # what lies in memory.
            matrix = x.reshape(count, x.shape[1:].numel())
            return gather_rows(ranks, "rows", matrix).view(rows, *x.shape[1:])

        before = torch.get_rng_state()
        with _NormsOfAllRows(ranks):
            found = self._forward(*map_tensors(part, args), **map_tensors(part, kwargs))
        if not torch.equal(before, torch.get_rng_state()):
            refuse(_OP, "a module", "one that draws no random numbers", "one that does")
        return map_tensors(gathered, found)


class _NormsOfAllRows(TorchFunctionMode):
    """Has batch norms normalize by the rows of all ranks."""

    def __init__(self, ranks: PartsOfRows) -> None:
        super().__init__()
        self._ranks = ranks

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm:
            return batch_norm(self._ranks, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _can_be_split(tensors: list[Tensor], ranks: int) -> bool:
    if ranks == 1 or not tensors or tensors[0].dim() == 0 or len(tensors[0]) < ranks:
        return False
    square = (len(tensors[0]),) * 2
    return not any(x.shape[:2] == square for x in tensors[1:])
