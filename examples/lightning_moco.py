"""MoCo on handwritten digits with PyTorch Lightning: a method is a module like any other.

python examples/lightning_moco.py
"""

import digits
import pytorch_lightning as lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from sslkern.methods import MoCo


class Learner(lightning.LightningModule):
    """A method and its optimizer."""

    def __init__(self) -> None:
        """Build the method."""
        super().__init__()
        self.method = MoCo(
            digits.encoder(),
            digits.FEATURES,
            projection_dim=64,
            queue_size=1024,
            momentum=0.99,
            key_parts=4,
        )

    def training_step(self, images: Tensor, index: int) -> Tensor:
        """Return the loss of two views."""
        loss = self.method(digits.view(images), digits.view(images))
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, *_: object) -> None:
        """The momentum encoder follows the optimizer's step."""
        self.method.update(self.global_step / self.trainer.estimated_stepping_batches)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over what takes a gradient."""
        return torch.optim.AdamW(self.method.trainable(), lr=1e-3)


def main() -> None:
    """Train, then score the features with 100 labels."""
    given = digits.arguments(__doc__)
    images, labels = digits.load()
    learner = Learner()
    print(f"before: accuracy {digits.score(learner.method.encoder, images, labels):.3f}")

    loader = DataLoader(images, batch_size=64, shuffle=True, drop_last=True)
    trainer = lightning.Trainer(
        max_epochs=given.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    trainer.fit(learner, loader)
    accuracy = digits.score(learner.method.encoder, images, labels)
    print(f"after: accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
