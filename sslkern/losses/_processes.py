"""What modules with other libraries' distributed options say to them."""

from __future__ import annotations

import torch


def refuse_processes(op: str, name: str, wanted: bool) -> None:
    """Refuse to gather from more than one process. In one process the option is without effect.

    Args:
        op: What errors call the loss.
        name: Of the option.
        wanted: Its value.
    """
    processes = _process_count() if wanted else 1
    if processes > 1:
        raise NotImplementedError(
            f"sslkern::{op}: expected {name} to be False in more than one process, got True in "
            f"{processes} processes. Nothing is gathered from other processes yet."
        )


def _process_count() -> int:
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return 1
    return distributed.get_world_size()
