"""The configuration tree: every setting with its type and default. Unknown keys are errors."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from core.precision import Precision

Share = Annotated[float, Field(ge=0, lt=1)]
Backend = Literal["inductor", "cudagraphs", "aot_eager"]  # of torch.compile; the last generates no code


class Section(BaseModel):
    """Base of all sections: frozen, unknown keys rejected, infinities and NaN rejected."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


SectionType = TypeVar("SectionType", bound=Section)


def heads_divide(section: SectionType, width: int, heads: int) -> SectionType:
    """The section itself, for validators. Raises ValueError where attention heads do not fit its width."""
    if width % heads:
        raise ValueError(f"a width of {width} cannot be split into {heads} heads: choose a multiple")
    return section


class LatentConfig(Section):
    """Which latents the model has. ``none`` is the plain diffusion model, ``gaussian`` the continuous baseline,
    ``pointer`` discrete latents that each name one node of the sample (docking), so that K is each sample's own.

    count: M; codes: K (gaussian: dimensions per latent; pointer: not used); temperature: of the Gumbel-Softmax in
    training; extraction_temperature: of the samples that the prior learns from; drop: share of samples trained
    without latents; kl_weight: of the gaussian latents (the paper tries 0.1 and 1); standardise: keep the encoder from
    collapsing (core/heads.py; false is the plain linear head); gain: what standardised logits are multiplied with at
    first (learned from there): small starts slowly and finds the better optimum, large is informative sooner.
    """

    kind: Literal["discrete", "pointer", "gaussian", "none"] = "discrete"
    count: PositiveInt = 10
    codes: PositiveInt = 100
    temperature: PositiveFloat = 1.0
    extraction_temperature: PositiveFloat = 0.01
    drop: float = Field(default=0.1, ge=0, le=1)
    kl_weight: float = Field(default=0.1, ge=0)
    standardise: bool = True
    gain: PositiveFloat = 3.0


class NoiseConfig(Section):
    """Noise of a flat domain: what is trained and on which levels is sampled (EDM Table 1; defaults are EDM's).

    path: t -> sigma(t), s(t) for sampling; distribution: of the trained levels (mean, std: of ln sigma);
    resolution: shifts distribution and monotonic weight by ln(resolution / 64); dimensions: D of PFGM++, null for
    diffusion (core/geometry/euclidean.py).
    """

    sigma_data: PositiveFloat = 0.5
    precondition: Literal["edm", "vp", "ve", "iddpm"] = "edm"
    path: Literal["edm", "vp", "ve"] = "edm"
    distribution: Literal["lognormal", "loguniform", "linear-beta", "cosine"] = "lognormal"
    mean: float = -1.2
    std: PositiveFloat = 1.2
    weighting: Literal["edm", "edm-monotonic", "inverse-square", "uniform"] = "edm"
    resolution: PositiveInt | None = None
    dimensions: PositiveInt | None = None
    grid: Literal["rho", "geometric", "linear-beta", "cosine"] = "rho"
    sigma_min: PositiveFloat = 0.002
    sigma_max: PositiveFloat = 80.0
    rho: PositiveFloat = 7.0

    @model_validator(mode="after")
    def _ordered(self) -> "NoiseConfig":
        if self.distribution == "cosine" and self.weighting == "edm-monotonic":
            raise ValueError("edm-monotonic needs a density of noise levels, and cosine's levels are discrete: use edm")
        if self.sigma_min >= self.sigma_max:
            raise ValueError(f"sigma_min = {self.sigma_min} must be below sigma_max = {self.sigma_max}")
        return self


class PriorConfig(Section):
    """The second-stage Transformer (defaults: DisCo-Diff appendix D.1)."""

    width: PositiveInt = 512
    depth: PositiveInt = 12
    heads: PositiveInt = 8
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_fit(self) -> "PriorConfig":
        return heads_divide(self, self.width, self.heads)


class SamplingConfig(Section):
    """Defaults of generation; every one can be overridden per request.

    guidance, class_guidance: extra strength (core/guidance.py); guidance_interval: noise levels (low, high] at which
    guidance acts, everywhere by default; precision, compile: of the denoiser, as in ``StageConfig``.
    """

    sampler: str = "heun"
    steps: PositiveInt = 18
    options: dict[str, Any] = {}
    guidance: float = 0.0
    class_guidance: float = 0.0
    guidance_interval: tuple[float, float] | None = None
    prior_temperature: PositiveFloat = 1.0
    top_p: float = Field(default=1.0, gt=0, le=1)
    precision: Precision = "fp32"
    compile: Backend | None = None


class EMAConfig(Section):
    """Average of the weights. warmup: min(decay, (1 + n) / (10 + n)); power: EDM2's profile of relative width std."""

    kind: Literal["warmup", "power", "none"] = "warmup"
    decay: float = Field(default=0.999, ge=0, lt=1)
    std: float = Field(default=0.1, gt=0, lt=0.288)


class StageConfig(Section):
    """How one stage is trained. Adam; learning rate: linear warm-up, then constant or cosine to zero.

    batch: samples per optimiser step over all processes; accumulate: micro-batches it is split into per process;
    precision: of products; bf16 on CUDA and on CPUs made for it, fp16 on CUDA, elsewhere float32 is used; clip:
    gradient norm, 0 = off; workers: loader processes, 0 = load in the training process, while a GPU waits; initial: a
    model folder whose networks of the same name this stage starts from, None for random ones (weights that it does not
    have, as those of added layers, are random). It is read before the first step only, not when the run goes on;
    compile: backend of ``torch.compile`` for the networks of the stage (``inductor``, which needs a C++ compiler on a
    CPU), None to run them as they are. It pays on a GPU where shapes stay the same: images, not docking.
    """

    initial: str | None = None
    steps: PositiveInt = 1000
    batch: PositiveInt = 128
    accumulate: PositiveInt = 1
    lr: PositiveFloat = 1e-3
    betas: tuple[Share, Share] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup: int = Field(default=0, ge=0)
    decay: Literal["constant", "cosine"] = "constant"
    clip: float = Field(default=0.0, ge=0)
    precision: Precision = "fp32"
    ema: EMAConfig = EMAConfig()
    log_every: PositiveInt = 50
    checkpoint_every: PositiveInt = 1000
    keep: PositiveInt = 2
    workers: int = Field(default=0, ge=0)
    compile: Backend | None = None


class RunConfig(Section):
    """Everything that defines a run. ``model`` is the domain's own section."""

    domain: str
    seed: int = Field(default=0, ge=0)
    latents: LatentConfig = LatentConfig()
    model: Any
    prior: PriorConfig = PriorConfig()
    sampling: SamplingConfig = SamplingConfig()
    train: dict[str, StageConfig] = {}

    def stage(self, name: str) -> StageConfig:
        """Settings of a training stage, defaults where the file has none."""
        return self.train.get(name, StageConfig())
