"""Training of the binding-site finder, as a stage of its own."""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from core.errors import DataError
from core.interfaces import Stage
from core.rng import SampleStreams
from domains.docking.complex import Complex
from domains.docking.sites.calibration import calibrate
from domains.docking.sites.config import SitesConfig
from domains.docking.sites.features import point_cloud
from domains.docking.sites.labels import ligand_copies, touched
from domains.docking.sites.network import SiteNet

logger = logging.getLogger("disco")


@dataclass(frozen=True, eq=False)
class Example:
    """One protein's points: features [P, F], neighbours [P, K], which of them the ligand touches, and which it or its
    images in copies of the chain do."""

    features: Float[Tensor, "p f"]
    neighbours: Int[Tensor, "p k"]
    own: Bool[Tensor, " p"]
    any_copy: Bool[Tensor, " p"]


def example(whole: Complex, config: SitesConfig) -> Example:
    """Points and labels of a complex with a true pose, on the whole protein. Raises ValueError without one."""
    protein, ligand = whole.receptor.whole, whole.ligand.coordinates
    if ligand is None:
        raise ValueError(f"{whole.name}: its true pose is not known")
    cloud = point_cloud(protein)
    images = ligand_copies(protein, ligand) if config.copies else [ligand]
    labels = [torch.from_numpy(touched(cloud.positions, image, config.label_radius)) for image in images]
    return Example(
        torch.from_numpy(cloud.features), torch.from_numpy(cloud.neighbours), labels[0], torch.stack(labels).any(0)
    )


def site_losses(
    logits: Float[Tensor, "p 2"], own: Bool[Tensor, " p"], any_copy: Bool[Tensor, " p"]
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """``choice``, the cross-entropy of the softmax over the points against equal shares of the ligand's, and
    ``touch``, the mean of the binary cross-entropies of all points, touched ones weighted to a tenth of the total."""
    choice = -logits[:, 1].log_softmax(0)[own].mean()
    labels = any_copy.to(logits.dtype)
    weight = torch.where(any_copy, 0.1 / labels.mean(), 0.9 / (1 - labels.mean()).clamp(min=1e-6))
    touch = functional.binary_cross_entropy_with_logits(logits[:, 0], labels, weight)
    return choice, touch


class SitesStage(Stage):
    """Where on the whole protein the ligand is; examples are made when first met, and kept."""

    name = "sites"

    def __init__(self, config: SitesConfig, known: Callable[[], Iterable[Complex]]) -> None:
        """known: complexes with true poses that are not trained on, to calibrate probabilities by."""
        super().__init__()
        self.sites, self._known = SiteNet(config), known
        self._examples: dict[str, Example] = {}

    def forward(self, batch: Any, streams: SampleStreams) -> dict[str, Tensor]:
        """``loss`` [B], and what it is made of: ``choice``, ``touch``."""
        losses = {i: self._losses(batch.complexes[i], batch.ids.device) for i in sorted(set(batch.index))}
        choice, touch = (torch.stack([losses[i][part] for i in batch.index]) for part in range(2))
        return {"loss": choice + self.sites.config.point_weight * touch, "choice": choice, "touch": touch}

    def parts(self) -> dict[str, nn.Module]:
        return {"sites": self.sites}

    def conclude(self) -> None:
        """Calibrate the probabilities of sites; where no complex is held out they stay shares, and that is said."""
        try:
            held_out = [(each.receptor.whole, each.ligand.coordinates) for each in self._known()]
        except DataError as error:
            logger.warning("probabilities of binding sites are not calibrated: %s", error)
            return
        calibrate(self.sites, [(protein, ligand) for protein, ligand in held_out if ligand is not None])

    def _losses(self, whole: Complex, device: torch.device) -> tuple[Tensor, Tensor]:
        if whole.name not in self._examples:
            self._examples[whole.name] = example(whole, self.sites.config)
        kept = self._examples[whole.name]
        logits = self.sites(kept.features.to(device, torch.float32), kept.neighbours.to(device, torch.int64))
        return site_losses(logits, kept.own.to(device), kept.any_copy.to(device))
