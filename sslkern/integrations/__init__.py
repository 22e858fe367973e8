"""Losses of other libraries computed by ours, by one line in code that is there already.

``patch_<library>()`` replaces methods of the library's own classes and returns a `Patch`, which
ends with ``unpatch()`` or with its ``with`` statement. What ours does not serve runs the library's
own code, with a `FallbackWarning`. No library is imported before its patch is called.
"""

from sslkern.integrations._patch import FallbackWarning, Patch, unpatch_all
from sslkern.integrations._tested import TESTED
from sslkern.integrations.lightly import patch_lightly
from sslkern.integrations.open_clip import patch_open_clip
from sslkern.integrations.pytorch_metric_learning import patch_pytorch_metric_learning
from sslkern.integrations.sentence_transformers import patch_sentence_transformers

__all__ = [
    "TESTED",
    "FallbackWarning",
    "Patch",
    "patch_lightly",
    "patch_open_clip",
    "patch_pytorch_metric_learning",
    "patch_sentence_transformers",
    "unpatch_all",
]
