"""Molecular docking as a domain: complexes, poses on R3 x SO(3) x T^k, equivariant networks, node-pointer latents."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.config import RunConfig
from core.errors import ConfigError
from core.interfaces import Converted, Domain, Stage
from core.pipeline import Generated, Pipeline, Request
from core.rng import SampleStreams
from domains.docking.batch import DockingBatch
from domains.docking.complex import Complex
from domains.docking.config import DockingConfig
from domains.docking.data import DockingDataset
from domains.docking.empirical.relax import relaxed
from domains.docking.evaluation import Evaluation, confidences, figures_of, judge
from domains.docking.geometry import DockingGeometry
from domains.docking.language import LanguageModel
from domains.docking.networks.backbone import Backbone, BackboneOptions
from domains.docking.networks.confidence import ConfidenceNet
from domains.docking.networks.denoiser import DockingDenoiser, ScoreScale
from domains.docking.networks.encoder import DockingEncoder
from domains.docking.networks.latents import LatentInput
from domains.docking.networks.prior import DockingPrior
from domains.docking.networks.ranker import PoseRanker
from domains.docking.noise import TabledNoise
from domains.docking.pipeline import DockingPipeline
from domains.docking.pose import Pose
from domains.docking.published import convert_files
from domains.docking.ranking.stage import RankingStage
from domains.docking.request import DockingRequest
from domains.docking.sites.network import SiteNet
from domains.docking.sites.training import SitesStage
from domains.docking.temperatures import PUBLISHED
from domains.docking.write import write_poses

logger = logging.getLogger("disco")


class DockingDomain(Domain):
    """Docking: ligand poses in proteins, SE(3)-equivariant score model, latents that point at atoms and residues."""

    name = "docking"
    Config = DockingConfig
    pipeline = DockingPipeline

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        if config.latents.kind == "gaussian":
            raise ConfigError("docking has no continuous latents: set latents.kind to pointer, discrete or none")
        low = [f"train.{name}" for name, stage in config.train.items() if stage.precision != "fp32"]
        low += ["sampling"] if config.sampling.precision != "fp32" else []
        if low:  # its convolutions write products into float32 memory, and coordinates need float32
            raise ConfigError(f"docking computes in float32 only: set {low[0]}.precision to fp32")
        self._datasets: dict[str, DockingDataset] = {}
        self._language: LanguageModel | None = None

    @property
    def model(self) -> DockingConfig:
        model: DockingConfig = self.config.model
        return model

    @property
    def latents(self) -> LatentInput:
        """How latents reach the nodes."""
        c = self.config.latents
        if c.kind == "none":
            return LatentInput()
        return LatentInput("pointer" if c.kind == "pointer" else "vocabulary", c.count, c.codes)

    def language(self) -> LanguageModel | None:
        """The language model that the networks were trained with, loaded once; None where they read none.

        Raises ConfigError where its folder is not set.
        """
        if not self.model.language_dim:
            return None
        if not self.model.language:
            raise ConfigError(
                f"this model reads residue embeddings of width {self.model.language_dim} (ESM-2 650M: 1280): set "
                "model.language to the folder that holds the language model"
            )
        if self._language is None:
            self._language = LanguageModel.from_folder(Path(self.model.language), width=self.model.language_dim)
        return self._language

    def dataset(self, split: str) -> DockingDataset:
        if split not in self._datasets:
            self._datasets[split] = self._read(split)
        return self._datasets[split]

    def _read(self, split: str, limit: int | None = None) -> DockingDataset:
        return DockingDataset(self.model.data, split, self.language(), self.model.quirks, limit)

    def geometry(self) -> DockingGeometry:
        return DockingGeometry(self.model.noise.build(), self.model.noise.weights)

    def _scale(self) -> ScoreScale:
        noise = self.model.noise.build()
        return TabledNoise(noise) if self.model.noise.torsion_norms == "table" else noise

    def denoiser(self) -> DockingDenoiser:
        return DockingDenoiser(self._options(), self._scale(), self.latents)

    def _options(self) -> BackboneOptions:
        dropped = self.config.latents.kind != "none" and self.config.latents.drop > 0
        return self.model.denoiser_options(self.latents.width, dropped)

    def encoder(self) -> DockingEncoder:
        return DockingEncoder(self.model.encoder_options(), self.latents)

    def prior(self) -> DockingPrior:
        return DockingPrior(self._options(), self.model.noise.build(), self.latents, self.model.quirks.prior)

    def confidence(self) -> ConfidenceNet | PoseRanker:
        """The model that ranks poses. Raises ValueError where none is configured."""
        settings = self.model.confidence
        if settings is not None and settings.kind == "coarse":
            return PoseRanker(self.model.ranker_options(), settings.outputs, settings.empirical)
        return ConfidenceNet(self.model.confidence_options())

    def parts(self) -> dict[str, Callable[[], nn.Module]]:
        parts = super().parts()
        if self.model.sites is not None:
            parts["sites"] = self.sites
        if self.model.confidence is not None:
            parts["confidence"] = self.confidence
        return parts

    def sites(self) -> SiteNet:
        """The finder of binding sites. Raises ValueError where none is configured."""
        if self.model.sites is None:
            raise ValueError("this model has no site finder")
        return SiteNet(self.model.sites)

    def initial_prior(self, trained: Mapping[str, nn.Module]) -> DockingPrior:
        """Its layers start as the trained denoiser's (paper section 4.5)."""
        prior = self.prior()
        theirs = trained["denoiser"].get_submodule("backbone").state_dict()
        # The light backbone of a denoiser has no updates of residues; the prior's own stay as they are.
        prior.backbone.load_state_dict(theirs, strict=isinstance(prior.backbone, Backbone))
        return prior

    def frozen_prior(self, prior: nn.Module, step: int) -> Iterable[nn.Parameter]:
        return prior.get_submodule("backbone").parameters() if step < self.model.prior_freeze else ()

    def stages(self) -> dict[str, Callable[[nn.ModuleDict], Stage]]:
        model = self.model
        stages: dict[str, Callable[[nn.ModuleDict], Stage]] = {}
        if (sites := model.sites) is not None:
            stages["sites"] = lambda trained: SitesStage(sites, lambda: self.dataset("val").complexes)
        if model.confidence is not None and model.ranking is not None:
            stages["confidence"] = lambda trained: RankingStage(self, self.confidence(), dict(trained))
        return stages

    @classmethod
    def samplers(cls) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
        """The published low-temperature settings by name."""
        return PUBLISHED

    @classmethod
    def convert(cls, source: Path) -> Converted | None:
        return convert_files(source)

    def training_times(self, streams: SampleStreams) -> Tensor:
        return streams.uniform(1)[:, 0] ** (1 / self.model.noise.time_power)

    def sampling_times(self, steps: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def request(self, ids: Sequence[int], **spec: Any) -> DockingBatch:
        """spec: fields of ``DockingRequest`` (protein, ligand, ...), or ``complexes``, prepared ones; samples take the
        complexes in turn. Without any: those of the validation split. Raises RequestError."""
        complexes: Sequence[Complex] = spec.pop("complexes", ())
        if spec:
            asked, finder = DockingRequest.parse(spec), self.model.sites is not None
            complexes = asked.complexes(self.model.quirks, self.language(), finder=finder)
        chosen = tuple(complexes or self.dataset("val").complexes)
        numbers = [int(i) for i in ids]
        if spec and len(numbers) < len(chosen):
            logger.warning("%d samples for %d ligands: the others get no pose", len(numbers), len(chosen))
        return DockingBatch(torch.tensor(numbers), chosen, tuple(i % len(chosen) for i in numbers))

    def finish(self, samples: Pose, batch: DockingBatch) -> Pose:
        """Relaxed poses, in models that are set to it."""
        settings = self.model.relax
        if settings is None:
            return samples
        return relaxed(batch.structure(samples.positions.dtype), samples, settings.steps)

    def evaluate(self, samples: Pose, batch: Any) -> dict[str, float]:
        of_complex: dict[int, list[int]] = {}
        for number, which in enumerate(batch.index):
            of_complex.setdefault(which, []).append(number)
        return figures_of([judge(samples, batch, numbers) for numbers in of_complex.values()])

    def evaluation(
        self, pipeline: Pipeline, request: Request, out: Path, count: int | None
    ) -> dict[str, dict[str, float]]:
        """Every complex of ``model.evaluation.split``, or as many as ``count`` poses are enough for."""
        config = self.model.evaluation
        limit = config.complexes if count is None else max(1, count // config.poses)
        return Evaluation(pipeline, self._read(config.split, limit), config, request).run(out)

    def scores(self, networks: Mapping[str, nn.Module], samples: Pose, batch: Any) -> Mapping[str, Tensor]:
        """Confidence, where the model has one: higher is better, among poses of one complex."""
        network = networks.get("confidence")
        if not isinstance(network, ConfidenceNet | PoseRanker):
            return {}
        return {"confidence": confidences(network, samples, batch)}

    def write(self, result: Generated, out: Path) -> list[Path]:
        return write_poses(result, out)
