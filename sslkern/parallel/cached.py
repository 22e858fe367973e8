"""A step on a batch whose activations do not fit: encoded twice, in micro-batches (GradCache)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sslkern.parallel.agreement import agree
from sslkern.parallel.cached_arguments import (
    OP,
    all_within,
    are_several,
    check_arguments,
    modules_within,
    refuse_type,
    rows_of,
    sizes_of,
)
from sslkern.parallel.nested import narrow_rows, tensors_within
from sslkern.parallel.processes import Processes, Sharing
from sslkern.parallel.state import Buffers, RandomState, buffers_stay
from sslkern.parallel.wrappers import (
    gradients_stay,
    groups_of,
    need_as_many_calls,
    pending_broadcasts,
    wrappers_among,
)

Encoder = Callable[[Any], Tensor]


def cached_step(
    encoders: Encoder | Sequence[Encoder],
    inputs: Sequence[Any],
    loss: Callable[..., Tensor],
    micro_batch_size: int | Sequence[int],
    *,
    scaler: Any = None,
    sync_gradients: bool = True,
) -> Tensor:
    r"""Forward and backward pass of a large batch in the memory of a micro-batch.

    With embeddings :math:`z = f_\theta(x)`, of which the loss :math:`\ell(z)` needs all at once,

    .. math:: \frac{\partial \ell}{\partial \theta} = \sum_i
              \frac{\partial \ell}{\partial z_i} \frac{\partial z_i}{\partial \theta}

    so micro-batches are encoded without a graph, the gradient of the loss with respect to all
    embeddings is taken, and each micro-batch is encoded again and given its rows of that gradient.
    The gradients of parameters, also of those within the loss, are added to ``.grad``, as
    ``loss.backward()`` does; the step of the optimizer is left to the caller. Beside the embeddings
    the graph of one micro-batch is in memory. Encoders cost one forward pass more.

    Both passes draw the same random numbers from torch's global generators, so dropout is the same
    in both, and are under the autocast of the caller. Buffers move once. Batch norms in training
    normalize by the micro-batch: those alone make a difference to the whole batch at once. An
    embedding needs no gradient if its encoder has parameters and none of them requires one; such
    an encoder, and one whose embeddings the loss detaches, runs once.

    Over several ranks each passes its own rows, and the loss is called once on each, for example
    with ``gather_distributed=True``. Encoders may be, or hold, ``DistributedDataParallel`` and
    modules of ``torch.distributed.fsdp.fully_shard``; their gradients are averaged in the last
    backward pass alone. One ``DistributedDataParallel`` of which each input uses other parameters
    wants ``find_unused_parameters=True``. Gradients of other parameters, such as a temperature, are
    those of this rank: the loss may be a module within ``DistributedDataParallel``, too. A rank
    without rows calls its encoders with none, and keeps the buffers. Where encoders are wrapped,
    the ranks check their arguments in a small exchange, for which the host waits on GPUs; with
    ``fully_shard`` and ``torch.nn.SyncBatchNorm``, whose forward passes are collective, all ranks
    have as many micro-batches, without rows where there are not enough. With ``fully_shard`` the
    whole gradients of a rank are in memory until they are averaged.

    Args:
        encoders: Maps an input to its embeddings (rows, ...), of any dtype. One for each input, or
            one for all. Called with the input alone, in training or not, as its modules are. The
            modules that it has are found in a module, in a method of one and in a
            ``functools.partial`` of these; within another function wrappers and buffers are not.
        inputs: A list or tuple with one input for each embedding of the loss. An input is a tensor
            (rows, ...), or dictionaries, tuples and lists of such tensors, all with the same number
            of rows; other values in them are passed as they are. Inputs may have different
            numbers of rows.
        loss: Called once as ``loss(*embeddings)``; returns a tensor with one element.
        micro_batch_size: Rows that are encoded at once, at most; micro-batches are as equal as can
            be. One number, or one for each input.
        scaler: A ``torch.amp.GradScaler`` that scales the loss before gradients are taken, for
            float16.
        sync_gradients: Whether DistributedDataParallel and FSDP average the gradients. False adds
            up several steps on each rank, of which the last one must be True.

    Returns:
        The loss, detached and not scaled.

    Raises:
        TypeError: If an argument, or what an encoder or the loss returns, is of a wrong type.
        ValueError: If there is not an encoder for each input, an input has no tensor, tensors of
            different numbers of rows or one that requires grad, a micro-batch size is not positive,
            an encoder returns another number of rows, the loss more than one element, gradients
            are disabled, or an encoder is of ``FullyShardedDataParallel`` or has a static graph.
            Where encoders are wrapped, all ranks raise what one refuses.

        What encoders and the loss raise is raised as it is. Random state and buffers are then those
        from before the call; a part of the gradients may have been added.

    Example:
        >>> import torch
        >>> import sslkern
        >>> from sslkern.parallel import cached_step
        >>> encoder = torch.nn.Sequential(torch.nn.Linear(16, 8), torch.nn.Dropout(0.1))
        >>> views = torch.rand(96, 16), torch.rand(96, 16)
        >>> loss = cached_step(encoder, views, lambda a, b: sslkern.ntxent_loss(a, b, 0.1), 32)
        >>> encoder[0].weight.grad.shape
        torch.Size([8, 16])

        Two encoders and a scale that is learnt:

        >>> images, texts = torch.rand(96, 16), torch.randint(100, (96, 5))
        >>> towers = encoder, torch.nn.EmbeddingBag(100, 8)
        >>> log_scale = torch.nn.Parameter(torch.tensor(2.0))
        >>> loss = cached_step(
        ...     towers, (images, texts), lambda a, b: sslkern.clip_loss(a, b, log_scale.exp()), 32
        ... )
        >>> log_scale.grad.shape
        torch.Size([])

    Source: Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
    2021, https://arxiv.org/abs/2101.06983
    """
    wrappers = wrappers_among(modules_within(encoders))

    def check() -> None:
        check_arguments(encoders, inputs, loss, micro_batch_size, scaler, sync_gradients)

    parts = _numbers_of_parts(wrappers, inputs, micro_batch_size, check)
    each = encoders if are_several(encoders) else [encoders] * len(inputs)
    views = [_View(*view) for view in zip(each, inputs, parts, strict=True)]  # type: ignore
    before = _State(views)
    pending = pending_broadcasts(wrappers)
    try:
        embeddings = [view.embeddings() for view in views]
        value = _backward_of_loss(loss, embeddings, scaler)
        after = _State(views)
        before.restore()
        for wrapper in pending:  # as in the first pass, the buffers of the first rank
            wrapper.require_forward_param_sync = True
        _backward_of_encoders(views, embeddings, sync_gradients)
    except BaseException:
        before.restore()
        raise
    after.restore()
    return value


class _View:
    """An input, its encoder and the micro-batches that it is cut into."""

    def __init__(self, encoder: Encoder, value: Any, parts: int) -> None:
        self.encoder = encoder
        self.modules = modules_within(encoder)
        self.wrappers = wrappers_among(self.modules)
        self._value = value
        least, more = divmod(rows_of(value), parts)
        self.counts = [least + (i < more) for i in range(parts)]
        self._random: list[RandomState] = []

    def embeddings(self) -> Tensor:
        """All of them, the leaf that the loss is differentiated by."""
        found = []
        with torch.no_grad():
            for part in range(len(self.counts)):
                self._random.append(RandomState(self.devices()))
                found.append(self._encode(part))
            z = torch.cat(found)
        return z.requires_grad_(not self._is_frozen() and z.is_floating_point())

    def backward(self, part: int, grad: Tensor) -> None:
        """Give a micro-batch its rows of the gradient of all embeddings."""
        self._random[part].restore()
        with torch.enable_grad():
            z = self._encode(part)
        if z.requires_grad:
            with _no_autocast():
                own = grad.narrow(0, sum(self.counts[:part]), self.counts[part])
                torch.autograd.backward(z, own)

    def devices(self) -> list[torch.device]:
        """Those whose random numbers the encoder may draw, beside the CPU."""
        tensors = [*tensors_within(self._value)]
        tensors += [p for m in self.modules for p in m.parameters()]
        found = dict.fromkeys(x.device for x in tensors if x.device.type not in ("cpu", "meta"))
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            found[torch.device("cuda", torch.cuda.current_device())] = None
        return list(found)

    def _encode(self, part: int) -> Tensor:
        count = self.counts[part]
        micro_batch = narrow_rows(self._value, sum(self.counts[:part]), count)
        with contextlib.nullcontext() if count else buffers_stay(all_within(self.modules)):
            z = self.encoder(micro_batch)
        if not isinstance(z, Tensor):
            refuse_type("an encoder", "return a tensor", z)
        if z.dim() == 0 or len(z) != count:
            wanted = f"return {count} rows, as its input has"
            raise ValueError(
                f"sslkern::{OP}: expected an encoder to {wanted}, got shape {tuple(z.shape)}"
            )
        return z

    def _is_frozen(self) -> bool:
        needed = [p.requires_grad for m in self.modules for p in m.parameters()]
        return bool(needed) and not any(needed)


def _backward_of_loss(
    loss: Callable[..., Tensor], embeddings: Sequence[Tensor], scaler: Any
) -> Tensor:
    value = loss(*embeddings)
    if not isinstance(value, Tensor):
        refuse_type("loss", "return a tensor", value)
    if value.numel() != 1 or not value.requires_grad:
        wanted = "return one element that requires grad"
        got = f"shape {tuple(value.shape)}" if value.numel() != 1 else "one that does not"
        raise ValueError(f"sslkern::{OP}: expected loss to {wanted}, got {got}")
    scaled = value if scaler is None else scaler.scale(value)
    with _no_autocast():
        scaled.backward()
    return value.detach()


def _backward_of_encoders(
    views: Sequence[_View], embeddings: Sequence[Tensor], sync_gradients: bool
) -> None:
    calls = [
        (view, part, z.grad)
        for view, z in zip(views, embeddings, strict=True)
        if z.grad is not None
        for part in range(len(view.counts))
    ]
    last = {wrapper: i for i, (view, _, _) in enumerate(calls) for wrapper in view.wrappers}
    for i, (view, part, grad) in enumerate(calls):
        staying = [w for w in view.wrappers if i < last[w] or not sync_gradients]
        with gradients_stay(staying):
            view.backward(part, grad)


class _State:
    """Of the generators and of the encoders' buffers."""

    def __init__(self, views: Sequence[_View]) -> None:
        self._random = RandomState(dict.fromkeys(d for view in views for d in view.devices()))
        self._buffers = Buffers(all_within(m for view in views for m in view.modules))

    def restore(self) -> None:
        self._random.restore()
        self._buffers.restore()


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    """A backward pass has the dtypes of its forward pass and needs no casts of its own."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda"):
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield


def _numbers_of_parts(
    wrappers: Sequence[nn.Module],
    inputs: Sequence[Any],
    micro_batch_size: int | Sequence[int],
    check: Callable[[], None],
) -> list[int]:
    """Of each input, as many on all ranks where they meet in forward passes."""
    options: dict[str, object] = {}

    def check_here() -> None:
        check()
        options["the number of inputs"] = len(inputs)

    groups = groups_of(wrappers)
    if not groups:
        check_here()
    for group in groups:
        agree(OP, group, {}, options, check_here)
    sizes = sizes_of(micro_batch_size, inputs)
    parts = [max(1, -(-rows_of(x) // size)) for x, size in zip(inputs, sizes, strict=True)]
    for group in groups if need_as_many_calls(wrappers) else []:
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        processes = Processes(OP, Sharing(True, group), {})
        parts = processes.all_reduce(torch.tensor(parts, device=device), largest=True).tolist()
    return parts
