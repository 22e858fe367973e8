"""CLIP on a batch larger than what is encoded at once, on one process or several.

python examples/large_batch_clip.py
torchrun --nproc_per_node 2 examples/large_batch_clip.py
"""

import os

import clip
import digits
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sslkern
from sslkern.parallel import cached_step

BATCH = 256  # pairs of each process that a step learns from
MICRO_BATCH = 32  # of them are encoded at once


class Loss(nn.Module):
    """The loss over the pairs of all processes, with the scale that it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(-torch.tensor(0.07).log())

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """The mean of both directions."""
        units = nn.functional.normalize(images), nn.functional.normalize(texts)
        return sslkern.clip_loss(*units, self.log_scale.exp(), gather_distributed=True)


def accuracy(towers: list[nn.Module], images: Tensor, labels: Tensor) -> float:
    """How often the name that is most similar to an image is the right one."""
    for tower in towers:
        tower.eval()
    with torch.no_grad():
        names = towers[1](clip.texts([f"a {name}" for name in clip.NAMES]))
        scores = towers[0](images) @ nn.functional.normalize(names).T
    for tower in towers:
        tower.train()
    return (scores.argmax(1) == labels).float().mean().item()


def main() -> None:
    """Train on half of the pairs, of which each process draws its own, then name the others."""
    given = digits.arguments(__doc__)
    rank = int(os.environ.get("RANK", "0"))
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    images, labels = digits.load()
    half = len(images) // 2
    towers: list[nn.Module] = [
        nn.Sequential(digits.encoder(), nn.Linear(digits.FEATURES, 64)),
        nn.Sequential(nn.Embedding(128, 32), nn.Flatten(), nn.Linear(20 * 32, 64)),
    ]
    say = print if rank == 0 else lambda text: None
    say(f"before: accuracy {accuracy(towers, images[half:], labels[half:]):.3f}")

    modules = [*towers, Loss()]
    if dist.is_initialized():
        modules = [DistributedDataParallel(module) for module in modules]
    torch.manual_seed(given.seed + rank)  # each its own pairs and views
    optimizer = torch.optim.AdamW([p for m in modules for p in m.parameters()], lr=1e-3)
    for epoch in range(given.epochs):
        for index in digits.batches(images[:half], BATCH):
            pairs = digits.view(images[index]), clip.texts(clip.captions(labels[index]))
            optimizer.zero_grad()
            loss = cached_step(modules[:2], pairs, modules[2], MICRO_BATCH)
            optimizer.step()
        say(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    say(f"after: accuracy {accuracy(towers, images[half:], labels[half:]):.3f}")
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
