"""Loss functions: pure functions of arrays that depend on nothing else in kdjax.

Losses of single examples return one value per example, float32 [b]; the train step takes the
mean. Losses between examples return a scalar.
"""

from kdjax.losses.class_maps import class_attention_transfer
from kdjax.losses.contrastive import crd_nce
from kdjax.losses.correlations import batch_correlation, class_correlation, dist
from kdjax.losses.features import (
    PRECISION,
    SFD_DISTANCES,
    SFD_POOLS,
    activation_boundary,
    adaptive_average_pool,
    adaptive_max_pool,
    attention_transfer,
    factor_transfer,
    fitnet,
    fsp,
    hcl,
    l2_normalize,
    level_size,
    match_size,
    nearest_resize,
    nst,
    ofd,
    ofd_margin,
    sfd,
    smaller_size,
    vid,
)
from kdjax.losses.logits import (
    cross_entropy,
    dkd,
    ensemble,
    euclidean,
    hard_kd,
    kd,
    nkd,
    rld,
    sdd,
    ttm,
    wttm,
)
from kdjax.losses.relations import correlation_congruence, pkt, rkd, similarity_preserving
from kdjax.losses.synthesis import batch_norm_distance, class_balance

__all__ = [
    "PRECISION",
    "SFD_DISTANCES",
    "SFD_POOLS",
    "activation_boundary",
    "adaptive_average_pool",
    "adaptive_max_pool",
    "attention_transfer",
    "batch_correlation",
    "batch_norm_distance",
    "class_attention_transfer",
    "class_balance",
    "class_correlation",
    "correlation_congruence",
    "crd_nce",
    "cross_entropy",
    "dist",
    "dkd",
    "ensemble",
    "euclidean",
    "factor_transfer",
    "fitnet",
    "fsp",
    "hard_kd",
    "hcl",
    "kd",
    "l2_normalize",
    "level_size",
    "match_size",
    "nearest_resize",
    "nkd",
    "nst",
    "ofd",
    "ofd_margin",
    "pkt",
    "rkd",
    "rld",
    "sdd",
    "sfd",
    "similarity_preserving",
    "smaller_size",
    "ttm",
    "vid",
    "wttm",
]
