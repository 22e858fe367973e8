"""Whether all ranks call the same loss with the same options: one small all-gather per call."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from sslkern.ops._extension import C

BYTES = 4096
"""Of the message of a rank. A fixed size: ranks that disagree must not wait for each other."""


def agree(
    op: str,
    group: Any,
    shards: dict[str, Tensor],
    options: dict[str, object],
    check_here: Callable[[], None],
) -> dict[str, list[int]]:
    """Check this rank's arguments and that those of the others are like them.

    Returns:
        For each shard, the rows of every rank.

    Raises:
        ValueError: On all ranks, if they disagree, or if another rank's arguments are wrong.
    """
    error: Exception | None = None
    message: dict[str, Any] = {"loss": op}
    try:
        check_here()
        message |= {"rows": [len(x) for x in shards.values()], "same": _same(shards, options)}
    except Exception as raised:  # whatever it is, the others must not wait
        error, message["error"] = raised, str(raised)
    # An argument of this rank may be no tensor.
    device = next((x.device for x in shards.values() if isinstance(x, Tensor)), None)
    messages = _exchange(op, group, message, device)
    if error is not None:
        raise error
    _compare(op, messages)
    rows = [m["rows"] for m in messages]
    return {name: [r[i] for r in rows] for i, name in enumerate(shards)}


class Contents(NamedTuple):
    """What a tensor holds: an option to compare, in `check_values` alone."""

    of: Tensor

    def described(self) -> str:
        """A digest, for which every byte is read."""
        x = self.of
        if not C.check_values() or x.layout != torch.strided or x.device.type == "meta":
            return "not looked at"
        rows = x.detach().reshape(-1).contiguous().view(torch.uint8).cpu()
        return "of digest " + hashlib.blake2b(rows.numpy().data, digest_size=8).hexdigest()


def whole(name: str, value: object) -> dict[str, object]:
    """Of a tensor that all ranks have as a whole, or none does: options to compare."""
    if not isinstance(value, Tensor):
        return {f"the shape of {name}": None}
    return {
        f"the shape of {name}": tuple(value.shape),
        f"the contents of {name}": Contents(value),
    }


def presence(value: object) -> str:
    """Of a tensor that each rank has for its own rows, or none does: an option to compare."""
    if not isinstance(value, Tensor):
        return "none"
    return "one that requires grad" if _needs_grad(value) else "one"


def which_require_grad(values: Iterable[object]) -> list[bool]:
    """Of several tensors: an option to compare. Nothing where gradients are disabled."""
    if not torch.is_grad_enabled():
        return []
    return [isinstance(x, Tensor) and x.requires_grad for x in values]


def _same(shards: dict[str, Tensor], options: dict[str, object]) -> dict[str, str]:
    found = {}
    for name, x in shards.items():
        found[f"the shape of a row of {name}"] = str(tuple(x.shape[1:]))
        found[f"the dtype of {name}"] = str(x.dtype)
        found[f"the kind of device of {name}"] = x.device.type
        found[f"whether {name} requires grad"] = str(_needs_grad(x))
    return found | {name: _described(value) for name, value in options.items()}


def _described(value: object) -> str:
    """Of tensors the value of one element, and no other values: they would have to be read."""
    if isinstance(value, Contents):
        return value.described()
    if isinstance(value, Tensor):
        one = value.numel() == 1
        what = f"of {value.item()!r}" if one else "with an element for each row or column"
        grad = ", requires grad" if _needs_grad(value) else ""
        return f"a tensor {what}, {value.dtype}{grad}"
    if isinstance(value, Real) and not isinstance(value, int):
        number = float(value)
        return repr(int(number) if number.is_integer() else number)  # 1.0 is 1, whoever says so
    return repr(value)


def _needs_grad(x: Tensor) -> bool:
    return x.requires_grad and torch.is_grad_enabled()


def _exchange(
    op: str, group: Any, message: dict[str, Any], device: torch.device | None
) -> list[dict[str, Any]]:
    text = json.dumps(message).encode()
    if len(text) > BYTES:
        long = message.get("error", "arguments of a longer description than ranks exchange")
        text = json.dumps({"loss": op, "error": long[: BYTES // 8]}).encode()
    own = torch.zeros(BYTES, dtype=torch.uint8)
    own[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    if dist.get_backend(group) == "nccl":
        own = own.to(device if device is not None and device.type == "cuda" else "cuda")
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    every = list(own.new_empty((size, BYTES)))
    try:
        dist.all_gather(every, own, group=group)
        return [json.loads(bytes(x.tolist()).rstrip(b"\0")) for x in every]
    except (RuntimeError, ValueError) as error:  # what is no message came from another collective
        raise RuntimeError(
            f"sslkern::{op}: expected all {size} ranks to call this loss within the timeout of "
            f"their group, got on rank {rank}: {error}"
        ) from error


def _compare(op: str, messages: list[dict[str, Any]]) -> None:
    """In the order of what explains most: an error, another loss, other arguments."""
    for rank, message in enumerate(messages):
        if "error" in message:
            raise ValueError(
                f"sslkern::{op}: expected the arguments of all ranks to be right, "
                f"got on rank {rank}: {message['error']}"
            )
    first = messages[0]
    for rank, message in enumerate(messages):
        if message["loss"] != first["loss"]:
            _differ(op, "the loss", first["loss"], rank, message["loss"])
        for name in (*first["same"], *message["same"]):
            here, there = (m["same"].get(name, "nothing") for m in (first, message))
            if here != there:
                _differ(op, name, here, rank, there)


def _differ(op: str, what: str, first: str, rank: int, other: str) -> None:
    raise ValueError(
        f"sslkern::{op}: expected {what} to be the same on all ranks, "
        f"got {first} on rank 0 and {other} on rank {rank}"
    )
