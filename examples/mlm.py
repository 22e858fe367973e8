"""A masked language model in plain PyTorch, whose logits are never in memory.

python examples/mlm.py
"""

import argparse
import re
from collections import Counter
from pydoc_data.topics import topics

import torch
from torch import Tensor, nn

import sslkern

LENGTH, WORDS, WIDTH = 32, 2000, 64
MASK, UNKNOWN, IGNORED = 0, 1, -100


def load() -> Tensor:
    """Python's own documentation as rows of words, (N, LENGTH)."""
    words = re.findall(r"[a-z]+|[^\sa-z]", " ".join(topics.values()).lower())
    common = [word for word, _ in Counter(words).most_common(WORDS - 2)]
    index = {word: i + 2 for i, word in enumerate(common)}
    tokens = torch.tensor([index.get(word, UNKNOWN) for word in words])
    return tokens[: len(tokens) // LENGTH * LENGTH].view(-1, LENGTH)


class Model(nn.Module):
    """Embeddings and a transformer; words are predicted with the same embeddings."""

    def __init__(self) -> None:
        """Build two blocks."""
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.positions = nn.Parameter(torch.randn(LENGTH, WIDTH) / 10)
        self.bias = nn.Parameter(torch.zeros(WORDS))
        nn.init.normal_(self.words.weight, std=0.05)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 2 * WIDTH, 0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, tokens: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Mean loss of the 15 % of the words that are hidden."""
        hide = torch.rand(tokens.shape, generator=generator) < 0.15
        hidden = self.encoder(self.words(tokens.masked_fill(hide, MASK)) + self.positions)
        targets = tokens.masked_fill(~hide, IGNORED)
        # The logits would be B x LENGTH x WORDS.
        return sslkern.linear_cross_entropy(
            hidden, self.words.weight, targets, bias=self.bias, ignore_index=IGNORED
        )


def perplexity(model: Model, rows: Tensor) -> float:
    """Of hidden words, always the same ones."""
    model.eval()
    with torch.no_grad():
        loss = model(rows, torch.Generator().manual_seed(0))
    model.train()
    return loss.exp().item()


def main() -> None:
    """Train on nine tenths of the rows, report the perplexity of the others."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    epochs = parser.parse_args().epochs
    torch.manual_seed(0)
    rows = load()
    rows = rows[torch.randperm(len(rows))]
    held_out, rows = rows[: len(rows) // 10], rows[len(rows) // 10 :]
    model = Model()
    print(f"before: perplexity {perplexity(model, held_out):.1f}")

    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for epoch in range(epochs):
        for index in torch.randperm(len(rows)).split(64):
            loss = model(rows[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

    print(f"after: perplexity {perplexity(model, held_out):.1f}")


if __name__ == "__main__":
    main()
