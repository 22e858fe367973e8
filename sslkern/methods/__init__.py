"""Self-supervised methods around the user's encoder, and the state that they share."""

from sslkern.methods.barlow_twins import BarlowTwins
from sslkern.methods.bert import BERT
from sslkern.methods.byol import BYOL
from sslkern.methods.causal_lm import CausalLM
from sslkern.methods.clip import CLIP
from sslkern.methods.color_tracking import ColorTracking
from sslkern.methods.colorization import Colorization
from sslkern.methods.context_encoder import ContextEncoder
from sslkern.methods.contrastive_random_walk import ContrastiveRandomWalk
from sslkern.methods.cpc import CPC
from sslkern.methods.dcl import DCL
from sslkern.methods.deepcluster import DeepCluster
from sslkern.methods.deepcluster_v2 import DeepClusterV2
from sslkern.methods.denoising_autoencoder import DenoisingAutoencoder
from sslkern.methods.densecl import DenseCL
from sslkern.methods.detco import DetCo
from sslkern.methods.dino import DINO
from sslkern.methods.gan import GAN
from sslkern.methods.ibot import IBOT
from sslkern.methods.infomin import InfoMin
from sslkern.methods.instdisc import InstDisc
from sslkern.methods.jigsaw import Jigsaw
from sslkern.methods.joint_embedding import JointEmbedding
from sslkern.methods.mae import MAE
from sslkern.methods.method import Method
from sslkern.methods.micle import MICLe, draw_partners
from sslkern.methods.mmcr import MMCR
from sslkern.methods.moco import MoCo
from sslkern.methods.moco_v3 import MoCoV3
from sslkern.methods.msn import MSN
from sslkern.methods.nnclr import NNCLR
from sslkern.methods.parts.center import Center
from sslkern.methods.parts.dino_head import DINOHead
from sslkern.methods.parts.heads import mlp
from sslkern.methods.parts.kmeans import kmeans
from sslkern.methods.parts.lars import LARS
from sslkern.methods.parts.memory import IndexMemory
from sslkern.methods.parts.monitor import collapse_metrics
from sslkern.methods.parts.multicrop import encode_crops
from sslkern.methods.parts.probes import OnlineLinearProbe, knn_predict
from sslkern.methods.parts.prototypes import Prototypes
from sslkern.methods.parts.queue import Queue
from sslkern.methods.parts.schedules import warmup_cosine
from sslkern.methods.parts.teacher import Teacher
from sslkern.methods.parts.unigram import UnigramSampler
from sslkern.methods.patch_localization import PatchLocalization
from sslkern.methods.pcl import PCL
from sslkern.methods.pirl import PIRL
from sslkern.methods.pixpro import PixPro
from sslkern.methods.ressl import ReSSL
from sslkern.methods.rotation import Rotation
from sslkern.methods.sela import SeLa
from sslkern.methods.siglip import SigLIP
from sslkern.methods.simclr import SimCLR
from sslkern.methods.simclr_v2 import SimCLRv2
from sslkern.methods.simclr_v2_distillation import SimCLRDistillation
from sslkern.methods.simsiam import SimSiam
from sslkern.methods.supcon import SupCon
from sslkern.methods.swav import SwAV
from sslkern.methods.tico import TiCo
from sslkern.methods.time_cycle import TimeCycle
from sslkern.methods.triplet import Triplet
from sslkern.methods.uvc import UVC
from sslkern.methods.vae import VAE
from sslkern.methods.vicreg import VICReg
from sslkern.methods.video_triplet import VideoTriplet
from sslkern.methods.wmse import WMSE
from sslkern.methods.word2vec import Word2Vec
from sslkern.methods.xlm import XLM
from sslkern.ops.tico import TiCoState

__all__ = [
    "BERT",
    "BYOL",
    "CLIP",
    "CPC",
    "DCL",
    "DINO",
    "GAN",
    "IBOT",
    "LARS",
    "MAE",
    "MMCR",
    "MSN",
    "NNCLR",
    "PCL",
    "PIRL",
    "UVC",
    "VAE",
    "WMSE",
    "XLM",
    "BarlowTwins",
    "CausalLM",
    "Center",
    "ColorTracking",
    "Colorization",
    "ContextEncoder",
    "ContrastiveRandomWalk",
    "DINOHead",
    "DeepCluster",
    "DeepClusterV2",
    "DenoisingAutoencoder",
    "DenseCL",
    "DetCo",
    "IndexMemory",
    "InfoMin",
    "InstDisc",
    "Jigsaw",
    "JointEmbedding",
    "MICLe",
    "Method",
    "MoCo",
    "MoCoV3",
    "OnlineLinearProbe",
    "PatchLocalization",
    "PixPro",
    "Prototypes",
    "Queue",
    "ReSSL",
    "Rotation",
    "SeLa",
    "SigLIP",
    "SimCLR",
    "SimCLRDistillation",
    "SimCLRv2",
    "SimSiam",
    "SupCon",
    "SwAV",
    "Teacher",
    "TiCo",
    "TiCoState",
    "TimeCycle",
    "Triplet",
    "UnigramSampler",
    "VICReg",
    "VideoTriplet",
    "Word2Vec",
    "collapse_metrics",
    "draw_partners",
    "encode_crops",
    "kmeans",
    "knn_predict",
    "mlp",
    "warmup_cosine",
]
