"""Losses as modules."""

from sslkern.losses.covariance import VICRegLoss
from sslkern.losses.cross_correlation import BarlowTwinsLoss
from sslkern.losses.frossl import FroSSLLoss
from sslkern.losses.info_nce import ClipLoss, InfoNCELoss
from sslkern.losses.koleo import KoLeoLoss
from sslkern.losses.linear_cross_entropy import LinearCrossEntropyLoss
from sslkern.losses.mmcr import MMCRLoss
from sslkern.losses.ntxent import NTXentLoss
from sslkern.losses.ressl import ReSSLLoss
from sslkern.losses.sampled_logits import NegativeSamplingLoss, SampledNCELoss
from sslkern.losses.siglip import SigLipLoss
from sslkern.losses.sinkhorn import SinkhornKnopp
from sslkern.losses.soft_cross_entropy import SoftCrossEntropyLoss
from sslkern.losses.supcon import DCLLoss, DCLWLoss, SupConLoss, negative_mises_fisher_weights
from sslkern.losses.swapped_prediction import SwAVLoss, SwaVLoss
from sslkern.losses.tico import TiCoLoss
from sslkern.losses.wmse import WMSELoss

__all__ = [
    "BarlowTwinsLoss",
    "ClipLoss",
    "DCLLoss",
    "DCLWLoss",
    "FroSSLLoss",
    "InfoNCELoss",
    "KoLeoLoss",
    "LinearCrossEntropyLoss",
    "MMCRLoss",
    "NTXentLoss",
    "NegativeSamplingLoss",
    "ReSSLLoss",
    "SampledNCELoss",
    "SigLipLoss",
    "SinkhornKnopp",
    "SoftCrossEntropyLoss",
    "SupConLoss",
    "SwAVLoss",
    "SwaVLoss",
    "TiCoLoss",
    "VICRegLoss",
    "WMSELoss",
    "negative_mises_fisher_weights",
]
