"""Losses as modules."""

from sslkern.losses.covariance import VICRegLoss
from sslkern.losses.cross_correlation import BarlowTwinsLoss
from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.linear_cross_entropy import LinearCrossEntropyLoss
from sslkern.losses.ntxent import NTXentLoss
from sslkern.losses.ressl import ReSSLLoss
from sslkern.losses.sampled_logits import NegativeSamplingLoss, SampledNCELoss
from sslkern.losses.siglip import SigLipLoss
from sslkern.losses.soft_cross_entropy import SoftCrossEntropyLoss
from sslkern.losses.supcon import DCLLoss, DCLWLoss, SupConLoss, negative_mises_fisher_weights

__all__ = [
    "BarlowTwinsLoss",
    "ClipLoss",
    "DCLLoss",
    "DCLWLoss",
    "InfoNCELoss",
    "LinearCrossEntropyLoss",
    "NTXentLoss",
    "NegativeSamplingLoss",
    "ReSSLLoss",
    "SampledNCELoss",
    "SigLipLoss",
    "SoftCrossEntropyLoss",
    "SupConLoss",
    "VICRegLoss",
    "negative_mises_fisher_weights",
]
