"""Bytes that a rank sends: counted at the collectives it calls, and by the system at its sockets.

Neither knows how the losses use the collectives.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch.distributed as dist
from torch import Tensor

Sent = dict[str, int]
"""Bytes for other ranks by the collective: ``all-gather``, ``all-to-all``, ``ring``,
``all-reduce``. A gathered tensor counts once for each other rank, whatever way the backend takes; a
reduced one counts once."""

BYTES_SENT = 200
"""Where ``struct tcp_info`` of linux/tcp.h has ``tcpi_bytes_sent``, a 64-bit number: Linux 4.19."""


@contextmanager
def count_sent() -> Iterator[Sent]:
    """Count what this process gives to the collectives of torch.distributed meanwhile."""
    sent: Sent = {}

    def counted(name: str, kind: str, count: Callable[..., int]) -> Any:
        call = getattr(dist, name)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            sent[kind] = sent.get(kind, 0) + count(*args, **kwargs)
            return call(*args, **kwargs)

        return mock.patch.object(dist, name, wrapper)

    with ExitStack() as stack:
        stack.enter_context(counted("all_gather", "all-gather", _gathered))
        stack.enter_context(counted("all_to_all_single", "all-to-all", _exchanged))
        stack.enter_context(counted("batch_isend_irecv", "ring", _passed_on))
        stack.enter_context(counted("all_reduce", "all-reduce", _reduced))
        yield sent


def bytes_of(x: Tensor) -> int:
    """Of the elements."""
    return x.numel() * x.element_size()


def _gathered(to: Sequence[Tensor], x: Tensor, **_: Any) -> int:
    return (len(to) - 1) * bytes_of(x)


def _exchanged(
    to: Tensor, x: Tensor, to_splits: Sequence[int], splits: Sequence[int], *, group: Any
) -> int:
    own = splits[dist.get_rank(group)]
    return bytes_of(x) * (sum(splits) - own) // max(sum(splits), 1)


def _passed_on(ops: Sequence[Any]) -> int:
    return sum(bytes_of(op.tensor) for op in ops if op.op is dist.isend)


def _reduced(x: Tensor, *_: Any, **__: Any) -> int:
    return bytes_of(x)


def socket_bytes() -> int | None:
    """Bytes that the TCP sockets of this process have sent, as Linux counts them; None elsewhere.

    With whatever the backend adds, and with what was sent again.
    """
    if not hasattr(socket, "TCP_INFO") or not os.path.isdir("/proc/self/fd"):
        return None
    counts = [_bytes_sent(int(name)) for name in os.listdir("/proc/self/fd")]
    found = [count for count in counts if count is not None]
    return sum(found) if found else None


def _bytes_sent(descriptor: int) -> int | None:
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return None
        copy = socket.socket(fileno=os.dup(descriptor))
    except OSError:  # closed meanwhile, as the folder's own is
        return None
    with copy:
        if copy.family not in (socket.AF_INET, socket.AF_INET6):
            return None
        if copy.type != socket.SOCK_STREAM:
            return None
        info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 512)
    if len(info) < BYTES_SENT + 8:
        return None
    return int(struct.unpack_from("=Q", info, BYTES_SENT)[0])
