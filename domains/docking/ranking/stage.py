"""Training of the confidence model, as a stage of its own."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from core.errors import ConfigError, DataError
from core.interfaces import Dataset, Domain, Stage
from core.pipeline import Pipeline
from core.rng import SampleStreams
from core.training.distributed import World
from domains.docking.config import DockingConfig
from domains.docking.data import DockingDataset
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.ranker import PoseRanker
from domains.docking.ranking.config import RankingConfig
from domains.docking.ranking.data import PoseBatch, PoseDataset
from domains.docking.ranking.held_out import HeldOut, calibrate
from domains.docking.ranking.losses import ranking_losses
from domains.docking.ranking.poses import Complexes, PoseStore, make_all, weights_digest

logger = logging.getLogger("disco")
MADE_BY = ("denoiser", "encoder", "prior")
MADE_WITH = {"poses", "steps", "decoys", "noisy", "noise_time", "batch"}  # settings that the poses follow from


class RankingStage(Stage):
    """Poses that the trained networks make, and the confidence model that learns to tell which of them are good."""

    name = "confidence"

    def __init__(self, domain: Domain, network: nn.Module, trained: Mapping[str, nn.Module]) -> None:
        """network: the untrained confidence model; trained: the parts of the stages before.

        Raises ConfigError where the model's outputs do not fit the thresholds.
        """
        super().__init__()
        model: DockingConfig = domain.config.model
        config = model.ranking
        if config is None or model.confidence is None:
            raise ConfigError("model.confidence and model.ranking must both be set to train a confidence model")
        if model.confidence.outputs != len(config.thresholds):
            raise ConfigError(
                f"model.confidence.outputs is {model.confidence.outputs}, and model.ranking.thresholds are "
                f"{len(config.thresholds)}: there is one output for each threshold"
            )
        makers = [*MADE_BY, "sites"] if config.decoys else MADE_BY
        if config.decoys and "sites" not in trained:
            raise ConfigError(
                "model.ranking.decoys asks for poses in the sites of a site finder: set model.sites and train that "
                "stage first, or set model.ranking.decoys=0"
            )
        self.domain, self.model, self.config, self.confidence = domain, model, config, network
        if config.initial in trained:
            take_over(self.confidence, trained[config.initial])
        # In a tuple, so that they are no part of what this stage trains and saves.
        self._trained: tuple[Mapping[str, nn.Module], ...] = ({n: trained[n] for n in makers if n in trained},)
        self._calibrate: Callable[[ConfidenceNet | PoseRanker], None] | None = None

    def prepare(self, dataset: Dataset, folder: Path, world: World) -> Dataset:
        """Makes the poses that FOLDER/state/poses lacks, and those of the validation complexes in poses-held-out.

        Raises DataError, RequestError, StorageError.
        """
        assert isinstance(dataset, DockingDataset)
        pipeline = Pipeline(self.domain, self._trained[0], world.device)
        self._trained = ()  # averages of the weights copy the stage
        store = self._made(pipeline, dataset, dataset.content_hash, self.config, folder / "state" / "poses", world)
        if self.config.held_out:
            self._prepare_calibration(pipeline, folder / "state" / "poses-held-out", world)
        samples = PoseDataset(dataset, store, self.config)
        logger.info("ranking is learned from the poses of %d complexes", len(samples))
        return samples

    def _prepare_calibration(self, pipeline: Pipeline, folder: Path, world: World) -> None:
        """Poses of the validation complexes, as users get them; that there are no such complexes is said."""
        try:
            known = self.domain.dataset("val")
        except DataError as error:
            logger.warning("confidence will not be calibrated: %s", error)
            return
        assert isinstance(known, DockingDataset)
        seen = HeldOut(known.complexes, None if self.model.data.crop is None else self.model.regions.margin)
        asked = self.config.model_copy(update={"poses": self.config.held_out, "steps": None, "noisy": 0, "decoys": 0})
        store = self._made(pipeline, seen, known.content_hash, asked, folder, world)
        good = self.config.thresholds[0]
        # A function, which copies of the stage share.
        self._calibrate = lambda network: calibrate(network, seen.complexes, store, good)

    def _made(
        self, pipeline: Pipeline, dataset: Complexes, data: str, config: RankingConfig, folder: Path, world: World
    ) -> PoseStore:
        """All poses of a data set of that content hash."""
        run, model = self.domain.config, self.model
        about = {
            "networks": weights_digest(pipeline.networks), "data": data, "seed": run.seed,
            "sampling": run.sampling.model_dump(mode="json"), "latents": run.latents.model_dump(mode="json"),
            "ranking": config.model_dump(mode="json", include=MADE_WITH),
            **model.model_dump(mode="json", include={"relax"}),
            "margin": model.regions.margin,
            "crop": None if model.data.crop is None else model.data.crop.model_dump(mode="json"),
        }  # fmt: skip
        store = PoseStore(folder, about)
        if world.is_main:
            store.open()
        world.barrier()
        make_all(pipeline, dataset, store, config, world.rank, world.size)
        world.barrier()
        return store

    def conclude(self) -> None:
        """Make confidence the logit of a probability, where validation complexes are known."""
        if self._calibrate is not None:
            assert isinstance(self.confidence, ConfidenceNet | PoseRanker)
            self._calibrate(self.confidence)

    def forward(self, batch: Any, streams: SampleStreams) -> dict[str, Tensor]:
        """batch: a ``PoseBatch``; ``loss`` [B], ``bce``, ``pair``, and ``order``, the share of pairs in order."""
        assert isinstance(batch, PoseBatch)
        dtype = next(self.confidence.parameters()).dtype
        logits = self.confidence(batch.poses.structure(dtype), batch.poses.clean.flat.to(dtype))
        c = self.config
        return ranking_losses(logits.float(), batch.rmsd, c.group, c.thresholds, c.softness, c.pair_weight)

    def parts(self) -> dict[str, nn.Module]:
        return {"confidence": self.confidence}


def take_over(target: nn.Module, source: nn.Module) -> int:
    """Copy the weights of another network's backbone that have the same name and shape; how many tensors that were."""
    mine, others = (dict(network.named_children()).get("backbone") for network in (target, source))
    if mine is None or others is None:
        return 0
    own = mine.state_dict()
    fitting = {n: w for n, w in others.state_dict().items() if n in own and own[n].shape == w.shape}
    mine.load_state_dict(fitting, strict=False)
    return len(fitting)
