"""What the confidence model minimises: cross-entropy of "the pose is good", and the order of poses of one complex."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def soft_labels(rmsd: Float[Tensor, " n"], thresholds: Sequence[float], softness: float) -> Float[Tensor, "n c"]:
    """sigmoid((threshold - rmsd) / softness) for every threshold, in Angstrom; softness 0: 1 below it, else 0."""
    below = rmsd.new_tensor(list(thresholds)) - rmsd[:, None]
    return (below / softness).sigmoid() if softness else (below > 0).to(rmsd.dtype)


def pair_losses(
    scores: Float[Tensor, "b g"], labels: Float[Tensor, "b g"]
) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """Mean of softplus(s_j - s_i) over the pairs of a row with y_i > y_j, each weighted with y_i - y_j (RankNet,
    Burges et al. 2005), and the share of these weights whose pairs are in the right order; 0 and 1 where no pair is."""
    weight = (labels[:, :, None] - labels[:, None, :]).clamp_min(0)
    behind = scores[:, None, :] - scores[:, :, None]  # s_j - s_i
    total = weight.sum((1, 2))
    known = total > 1e-6
    total = total.clamp_min(1e-6)
    loss = (weight * functional.softplus(behind)).sum((1, 2)) / total
    right = (weight * (behind < 0)).sum((1, 2)) / total
    return loss.where(known, 0.0), right.where(known, 1.0)


def ranking_losses(
    logits: Float[Tensor, "n c"], rmsd: Float[Tensor, " n"], group: int, thresholds: Sequence[float], softness: float,
    pair_weight: float,
) -> dict[str, Tensor]:  # fmt: skip
    """[N] ``loss`` of N poses, ``group`` of every complex one after the other, and its parts ``bce`` and ``pair``;
    ``order``: the share of pairs in the right order."""
    labels = soft_labels(rmsd, thresholds, softness)
    bce = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(1)
    pair, order = (
        each.repeat_interleave(group)
        for each in pair_losses(logits[:, 0].reshape(-1, group), labels[:, 0].reshape(-1, group))
    )
    return {"loss": bce + pair_weight * pair, "bce": bce, "pair": pair, "order": order}
