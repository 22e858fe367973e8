"""Which versions of the libraries the patches were tested with."""

from __future__ import annotations

TESTED: dict[str, tuple[str, str]] = {
    "lightly": ("1.5.26", "1.6.0"),
    "pytorch-metric-learning": ("2.6.0", "2.9.0"),
    "open_clip_torch": ("3.0.0", "3.3.0"),
    "sentence-transformers": ("6.0.0", "6.2.0"),
}
"""The first and the last version of each library that its patch takes; all of them were tested.

Before the first, lightly's Barlow Twins divides gradients by the number of processes, open_clip's
``ClipLoss`` leaves out the bias, and sentence-transformers computes half types as they are.
"""

INSTALL: dict[str, str] = {
    name: f"pip install {name}=={last}" for name, (_, last) in TESTED.items()
}
"""How to get the last one."""
