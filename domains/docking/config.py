"""The ``model`` section of docking runs."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from core.config import Section
from core.geometry.so3 import IGSO3, AuthorsIGSO3
from domains.docking.networks.backbone import BackboneOptions, Quirks
from domains.docking.networks.confidence import ConfidenceOptions, ConfidenceQuirks
from domains.docking.networks.prior import PriorQuirks
from domains.docking.noise import LOSS_WEIGHTS, DockingNoise
from domains.docking.ranking.config import RankingConfig
from domains.docking.sites.config import SitesConfig

Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]  # YAML reads "key=" as null
NoiseRange = tuple[PositiveFloat, PositiveFloat]


class DockingNoiseConfig(Section):
    """Levels (lowest, highest) of each part: tr in Angstrom, rot and tor in radians (paper section 4.2).

    igso3: law of the rotations, ``heat`` (Brownian motion of variance sigma^2 per axis, as in DiffDock) or ``authors``
    (twice that, at the levels of their table: what the published weights were trained with); torsion_norms: ``exact``,
    or ``table`` where a table came with converted weights; time_power: t = u^(1/power), u uniform, so 2 is Beta(2, 1);
    weights: of the losses of translation, rotation and torsions.
    """

    tr: NoiseRange = DockingNoise.tr
    rot: NoiseRange = DockingNoise.rot
    tor: NoiseRange = DockingNoise.tor
    igso3: Literal["heat", "authors"] = "heat"
    torsion_norms: Literal["exact", "table"] = "exact"
    time_power: PositiveFloat = 2.0
    weights: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = LOSS_WEIGHTS

    @model_validator(mode="after")
    def _ordered(self) -> "DockingNoiseConfig":
        for name in ("tr", "rot", "tor"):
            low, high = getattr(self, name)
            if low >= high:
                raise ValueError(f"{name}: the lowest level {low} must be below the highest {high}")
        return self

    def build(self) -> DockingNoise:
        law = IGSO3(0.5) if self.igso3 == "heat" else AuthorsIGSO3()
        return DockingNoise(self.tr, self.rot, self.tor, law)


class BackboneConfig(Section):
    """Sizes of a graph network: layers, scalars (the authors' ns), vectors (nv), and distances in Angstrom.

    network: ``tensor`` (DiffDock's) or ``vector`` (light; docs/docking.md);
    atom_radius: ligand atoms hear the protein's heavy atoms within so many Angstrom, 0 for none (DiffDock-S).
    """

    network: Literal["tensor", "vector"] = "tensor"
    layers: PositiveInt = 5
    scalars: PositiveInt = 24
    vectors: PositiveInt = 6
    distance_dim: PositiveInt = 32
    ligand_radius: PositiveFloat = 5.0
    residue_radius: PositiveFloat = 30.0
    cross_radius: PositiveFloat = 80.0
    cross_cutoff: PositiveFloat | None = None
    atom_radius: float = Field(default=0.0, ge=0)
    dropout: float = Field(default=0.1, ge=0, lt=1)


class EncoderConfig(BackboneConfig):
    """The encoder sees a clean pose, so the reach of its edges is fixed."""

    layers: PositiveInt = 3
    vectors: PositiveInt = 4
    cross_radius: PositiveFloat = 30.0
    cross_cutoff: PositiveFloat = 30.0


class ConfidenceConfig(BackboneConfig):
    """The confidence model. kind: ``all-atom`` (all protein atoms, harmonics of degree 2; reads neither ``network`` nor
    ``atom_radius``) or ``coarse`` (the backbone of the other networks, many times cheaper); outputs: logits per pose,
    the first ranks; empirical: a coarse one also hears the terms of AutoDock Vina's scoring function.
    """

    kind: Literal["all-atom", "coarse"] = "all-atom"
    cross_cutoff: PositiveFloat = 20.0
    dropout: float = Field(default=0.0, ge=0, lt=1)
    outputs: PositiveInt = 2
    empirical: bool = False


class QuirksConfig(Section):
    """What the authors' code does and a fresh design would not; converted models have all of it (docs/docking.md).

    zero_cross_latents: edges between ligand and receptor do not see the latents; unsigned_reverse: messages back from
    ligand to receptor use the direction vector of the messages there; prior_channels: how many scalars and
    pseudoscalars the prior's heads read (None: all); prior_shared_head: one head for all latents;
    shifted_language: the confidence model reads its residue embeddings shifted by the width of the noise level's;
    turn_double_bonds: double and triple bonds outside rings count as rotatable, which scrambles E and Z;
    raw_chirality: chirality tags as RDKit sets them on every atom of a 3-D file, which depend on the order of atoms.
    """

    zero_cross_latents: bool = False
    unsigned_reverse: bool = False
    prior_channels: PositiveInt | None = None
    prior_shared_head: bool = False
    shifted_language: bool = False
    turn_double_bonds: bool = False
    raw_chirality: bool = False

    @property
    def backbone(self) -> Quirks:
        return Quirks(self.zero_cross_latents, self.unsigned_reverse)

    @property
    def prior(self) -> PriorQuirks:
        return PriorQuirks(self.prior_channels, self.prior_shared_head)

    @property
    def confidence(self) -> ConfidenceQuirks:
        return ConfidenceQuirks(self.shifted_language, self.unsigned_reverse)


class CropConfig(Section):
    """Random surroundings of the ligand to train on, instead of whole proteins.

    margin: Angstrom around the true pose, between these two; shift: of the pose that it is measured from, standard
    deviation per axis in Angstrom; jitter: of every protein atom, likewise; whole: share of samples left whole.
    """

    margin: tuple[PositiveFloat, PositiveFloat] = (7.0, 12.0)
    shift: float = Field(default=2.0, ge=0)
    jitter: float = Field(default=0.1, ge=0)
    whole: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> "CropConfig":
        if self.margin[0] > self.margin[1]:
            raise ValueError(f"margin: the smaller one first, not {self.margin}")
        return self


class DataConfig(Section):
    """Complexes to train and measure on.

    folder: holds one sub-folder per complex, with a protein and a ligand (protein.pdb and ligand.sdf, or PDBBind's
    names); table: CSV with columns ``id`` and ``split`` (train, val, test) and perhaps ``no_rec_overlap`` (1: its
    receptor is not in training), or with the columns ``id``, ``protein`` and ``ligand`` (files); splits: instead of it,
    a folder with the paper's lists (timesplit_no_lig_overlap_train, ...), or a list of names per split; without either
    one of twenty, by the checksum of its name, is ``val``; conformers: so many per complex are laid on its true pose;
    cache: folder that keeps what is prepared, ``default`` for the user's cache folder, empty for none; workers:
    processes that prepare, 0 for the one that asks, None for one per processor;
    crop: what training sees of a protein, None for all of it; largest: training leaves out ligands with more heavy
    atoms, None for none.
    """

    folder: Text = ""
    table: Text = ""
    splits: Text | dict[Literal["train", "val", "test", "unseen"], str] = ""
    conformers: PositiveInt = 1
    cache: Text = "default"
    workers: Annotated[int, Field(ge=0)] | None = None
    crop: CropConfig | None = None
    largest: PositiveInt | None = None


class EvaluationConfig(Section):
    """``disco evaluate``.

    split: what is docked (``all``: every complex there is); complexes: at most so many, None for all of them; poses:
    per complex; pocket: dock into the surroundings of the true pose up to so many Angstrom, None: blind; pose_checks:
    PoseBusters as well; latents: where they come from: ``prior``, ``encoder`` (read off the true pose: how good the
    denoiser would be under the right latents) or ``dropped``.
    """

    split: Literal["val", "test", "all"] = "val"
    complexes: PositiveInt | None = None
    poses: PositiveInt = 40
    pocket: PositiveFloat | None = None
    pose_checks: bool = False
    latents: Annotated[tuple[Literal["prior", "encoder", "dropped"], ...], Field(min_length=1)] = ("prior",)


class RegionsConfig(Section):
    """Blind docking into the surroundings of predicted binding sites, in models that have a site finder.

    sites: so many of the best share the poses; margin: Angstrom beyond the ligand's own reach that count as
    surroundings; weight: of the log-odds of a pose's site beside its confidence when poses are ranked.
    """

    sites: PositiveInt = 3
    margin: PositiveFloat = 8.0
    weight: float = Field(default=0.136, ge=0)


class RelaxConfig(Section):
    """Every sampled pose is relaxed in AutoDock Vina's field before it is ranked or handed out: the ligand as a whole
    and its torsions go so many ``steps`` downhill."""

    steps: PositiveInt = 40


class DockingConfig(Section):
    """The ``model`` section of docking runs. Defaults are DisCo-DiffDock-S's, without its language model.

    ranking: how the confidence model is trained, None not to (a converted model brings its own);
    language_dim: width of the residue embeddings that the networks read, 0 for none (ESM-2 650M: 1280); language:
    folder of that language model; prior_freeze: optimiser steps in which the weights of the prior's copy of the
    denoiser stay as they are (its running statistics do not); time_dim, time_scale: embedding of the time;
    sites: the finder of binding sites, None for models that dock into whole proteins;
    relax: what happens to sampled poses, None: nothing.
    """

    data: DataConfig = DataConfig()
    noise: DockingNoiseConfig = DockingNoiseConfig()
    denoiser: BackboneConfig = BackboneConfig()
    encoder: EncoderConfig = EncoderConfig()
    confidence: ConfidenceConfig | None = None
    ranking: RankingConfig | None = None
    quirks: QuirksConfig = QuirksConfig()
    language_dim: int = Field(default=0, ge=0)
    language: Text = ""
    time_dim: PositiveInt = 32
    time_scale: PositiveFloat = 1000.0
    sites: SitesConfig | None = None
    regions: RegionsConfig = RegionsConfig()
    relax: RelaxConfig | None = None
    prior_freeze: int = Field(default=0, ge=0)
    evaluation: EvaluationConfig = EvaluationConfig()

    def denoiser_options(self, latent_width: int, dropped: bool) -> BackboneOptions:
        """Sizes of the denoiser, and of the prior, which is a copy of it."""
        return BackboneOptions(
            **self.denoiser.model_dump(), sigma_dim=self.time_dim, time_scale=self.time_scale,
            latent_width=latent_width, language=self.language_dim, dropped=dropped, quirks=self.quirks.backbone,
        )  # fmt: skip

    def encoder_options(self) -> BackboneOptions:
        """Sizes of the encoder, which sees clean poses only: no noise level, no latents."""
        return BackboneOptions(
            **self.encoder.model_dump(), sigma_dim=0, language=self.language_dim, quirks=self.quirks.backbone
        )

    def confidence_options(self) -> ConfidenceOptions:
        """Sizes of the all-atom confidence model. Raises ValueError where the model has none."""
        if self.confidence is None or self.confidence.kind != "all-atom":
            raise ValueError("this model has no all-atom confidence model")
        sizes = self.confidence.model_dump(include=set(ConfidenceOptions.__dataclass_fields__))
        return ConfidenceOptions(**sizes, language=self.language_dim, quirks=self.quirks.confidence)

    def ranker_options(self) -> BackboneOptions:
        """Sizes of the coarse confidence model, which sees finished poses only. Raises ValueError without one."""
        if self.confidence is None or self.confidence.kind != "coarse":
            raise ValueError("this model has no coarse confidence model")
        sizes = self.confidence.model_dump(include=set(BackboneOptions.__dataclass_fields__))
        return BackboneOptions(**sizes, sigma_dim=0, language=self.language_dim, quirks=self.quirks.backbone)
