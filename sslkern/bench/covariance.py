"""VICReg: inputs, contenders and the floor."""

from __future__ import annotations

from typing import Any, cast

from sslkern import reference
from sslkern.bench import cross_correlation
from sslkern.bench.contenders import Case, LossFn, Size, loss_contender, standard_contenders
from sslkern.bench.peers import import_peer
from sslkern.bench.products import gram_floor, gram_flops

EAGER_MATRICES, COMPILED_MATRICES, LIGHTLY_MATRICES = 6.0, 4.0, 8.0


def _load_lightly(size: Size) -> LossFn:
    module: Any = import_peer("lightly", "lightly.loss.vicreg_loss")
    loss_fn: LossFn = module.VICRegLoss()
    return loss_fn


CASE = Case(
    name="covariance",
    title="VICReg",
    make_inputs=cross_correlation.make_inputs,
    check_size=cross_correlation.check_size,
    reference=cast(LossFn, reference.vicreg_loss),
    reference_matrices=EAGER_MATRICES,
    flops=gram_flops,
    contenders=(
        *standard_contenders("vicreg_loss", eager=EAGER_MATRICES, compiled=COMPILED_MATRICES),
        loss_contender(
            "lightly",
            "VICRegLoss, eager",
            _load_lightly,
            matrices=LIGHTLY_MATRICES,
            peer="lightly",
        ),
        gram_floor(),
    ),
    default_sizes=cross_correlation.SIZES,
    peer_sizes=cross_correlation.PEER_SIZES,
    columns=cross_correlation.columns,
)
