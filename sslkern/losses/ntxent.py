"""NT-Xent as a module, with a memory bank if asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.losses._sharing import SharedLoss
from sslkern.methods.parts.queue import Queue
from sslkern.ops._common import check_positive_number, check_tensor
from sslkern.ops.info_nce import info_nce_loss
from sslkern.ops.ntxent import ntxent_loss
from sslkern.parallel.processes import Sharing, are_many, meet, share_of_first_rank
from sslkern.reference._common import normalize_rows, to_working_dtype

_OP = "ntxent"


class NTXentLoss(SharedLoss):
    r"""`sslkern.ntxent_loss` with its temperature held, or its form with a memory bank.

    With a bank the negatives of row i are the rows :math:`b_j` of the bank alone, and the loss has
    one direction, as in MoCo:

    .. math:: \ell_i = -\log \frac{\exp(\hat a_i \cdot \hat b'_i / \tau)}
              {\exp(\hat a_i \cdot \hat b'_i / \tau) + \sum_j \exp(\hat a_i \cdot b_j / \tau)}

    where :math:`a_i` and :math:`b'_i` are the rows of ``z_a`` and ``z_b``. The bank is read first;
    then the rows of ``z_b``, scaled to unit norm, replace its oldest, if ``z_a`` needs a gradient:
    an evaluation leaves the bank as it is. `queue` holds it, as part of the state of the module.
    The gradient of ``z_a`` is formed in the forward pass, so ``backward`` may come after that.

    Args:
        temperature: Positive number.
        memory_bank_size: Rows of the bank, or rows and their length (K, D); 0 for none. Without
            the length the bank comes into being in the first call or with `load_state_dict`, in
            the dtype and on the device of what it is given; a compiled graph without breaks needs
            that to have happened.
        gather_distributed: Whether the batch is that of all ranks; see `sslkern.ntxent_loss`. A
            bank then takes the rows of all, and is the same on all.
        process_group: The ranks; by default all.
        strategy: ``"gather"`` or ``"ring"``.
        check: Whether the ranks first compare their arguments.

    Raises:
        ValueError: If the temperature is not positive and finite, or the size is negative, or not
            one or two numbers, or of rows of no length.
        TypeError: If the size is no integer.

    Example:
        >>> import torch, sslkern
        >>> loss = sslkern.losses.NTXentLoss(temperature=0.5)
        >>> print(f"{loss(torch.eye(2), torch.eye(2)).item():.6f}")
        0.239545
        >>> moco = sslkern.losses.NTXentLoss(temperature=0.2, memory_bank_size=(4096, 2))
        >>> query = torch.eye(2, requires_grad=True)
        >>> moco(query, torch.eye(2)).backward()
        >>> moco.queue.rows[:2].tolist()
        [[1.0, 0.0], [0.0, 1.0]]

    Equals: `sslkern.reference.ntxent_loss`; with a bank, `sslkern.reference.info_nce_loss` with the
    bank as ``negatives``; ``lightly.loss.NTXentLoss`` of one process, where the rows of the bank
    are a multiple of the batch (of other batches lightly drops rows at the end of the bank).

    Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations",
    2020, https://arxiv.org/abs/2002.05709; with a bank: He et al., "Momentum Contrast for
    Unsupervised Visual Representation Learning", 2019, https://arxiv.org/abs/1911.05722
    """

    queue: Queue | None
    """The memory bank; None without one, and as long as the length of its rows is not known."""

    def __init__(
        self,
        temperature: float = 0.5,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        *,
        process_group: dist.ProcessGroup | None = None,
        strategy: str = "gather",
        check: bool = True,
    ) -> None:
        super().__init__(gather_distributed, process_group, check, strategy)
        check_positive_number(temperature, "temperature", _OP)
        self.temperature = temperature
        self.memory_bank_size = memory_bank_size
        self._bank_rows, dim = _rows_and_dim(memory_bank_size)
        self.queue = Queue(self._bank_rows, dim) if self._bank_rows and dim else None
        self._bank_is_shared = False  # what each rank has drawn is another one's
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]

    def forward(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        """Mean loss over the rows of two views, each (B, D).

        Without a bank these are all 2B rows, with one the B rows of ``z_a``.
        """
        if self._bank_rows == 0:
            return ntxent_loss(z_a, z_b, self.temperature, **self.sharing)
        return self._against_bank(z_a, z_b)

    def _against_bank(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        sharing = Sharing(**self.sharing)
        options = {"memory_bank_size": self.memory_bank_size, "temperature": self.temperature}
        processes = meet(
            *(_OP, sharing, {"z_a": z_a, "z_b": z_b}, options),
            lambda: _check_views(z_a, z_b, empty=are_many(sharing)),
        )
        queue = self.queue
        if queue is None:
            queue = _queue_like(z_b, self._bank_rows)
        if processes is not None and not self._bank_is_shared:
            share_of_first_rank(processes, [queue.rows, queue.position])
        bank = queue.rows.to(z_b.dtype)
        shared = {name: value for name, value in self.sharing.items() if name != "strategy"}
        loss = info_nce_loss(z_a, z_b, bank, temperature=self.temperature, **shared)
        if self.queue is None:  # only now: a call that raised leaves none of a wrong length
            self.queue = queue
        self._bank_is_shared = self._bank_is_shared or processes is not None
        if torch.is_grad_enabled() and z_a.requires_grad:
            rows = z_b.detach()
            if processes is not None:
                rows = torch.cat(processes.all_gather(rows, processes.rows["z_b"]))
            queue.enqueue(normalize_rows(to_working_dtype(rows)))
        return loss

    def extra_repr(self) -> str:
        """The settings, for ``print(module)``."""
        bank = f", memory_bank_size={self.memory_bank_size}" if self._bank_rows else ""
        return f"temperature={self.temperature}{bank}"


def _rows_and_dim(size: int | Sequence[int]) -> tuple[int, int | None]:
    """Check ``memory_bank_size`` and take it apart; a number alone leaves the length open."""
    expected = (
        f"sslkern::{_OP}: expected memory_bank_size to be K or (K, D), integers, K >= 0 and D > 0"
    )
    numbers = tuple(size) if isinstance(size, Sequence) else (size,)
    if any(isinstance(x, bool) or not isinstance(x, Integral) for x in numbers):
        raise TypeError(f"{expected}, got {size!r}")
    count = 2 if isinstance(size, Sequence) else 1
    if len(numbers) != count or numbers[0] < 0 or min(numbers[1:], default=1) < 1:
        raise ValueError(f"{expected}, got {size!r}")
    return numbers[0], numbers[1] if count == 2 else None


def _check_views(z_a: Tensor, z_b: Tensor, *, empty: bool) -> None:
    """The checks of shape that `ntxent_loss` makes, in its names; a rank may be without rows."""
    check_tensor(z_a, "z_a", _OP)
    check_tensor(z_b, "z_b", _OP)
    if z_a.dim() != 2 or 0 in (z_a.shape[1:] if empty else z_a.shape):
        raise ValueError(
            f"sslkern::{_OP}: expected z_a to be of shape (B, D) with no empty dimension, "
            f"got shape {tuple(z_a.shape)}"
        )
    if z_b.shape != z_a.shape:
        raise ValueError(
            f"sslkern::{_OP}: expected z_b to be of the shape of z_a, {tuple(z_a.shape)}, "
            f"got shape {tuple(z_b.shape)}"
        )
    if not z_b.is_floating_point():
        raise TypeError(
            f"sslkern::{_OP}: expected z_b to be of dtype torch.float64, torch.float32, "
            f"torch.bfloat16 or torch.float16, got {z_b.dtype}"
        )


def _queue_like(rows: Tensor, size: int) -> Queue:
    """A queue for ``size`` of such rows (B, D)."""
    with torch.inference_mode(False):  # otherwise it could not be written to outside of it
        return Queue(size, rows.shape[1]).to(rows.device, rows.dtype)


def _make_room(module: NTXentLoss, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Before the state is loaded: a queue for the rows in it, where none has come into being."""
    module._bank_is_shared = False
    rows = state.get(f"{prefix}queue.rows")
    if module.queue is None and module._bank_rows and rows is not None and rows.dim() == 2:
        module.queue = _queue_like(rows, module._bank_rows)
