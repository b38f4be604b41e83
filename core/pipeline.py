"""A trained model, ready to use: what the command line and notebooks call."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from core.checkpoint import MANIFEST, Manifest, find_model, load_part, read_manifest, update_model
from core.config_file import apply_overrides, parse_config
from core.errors import CheckpointError, RequestError
from core.guidance import Guidance, ScoreField
from core.interfaces import Denoiser, Domain, scalar_times
from core.latents import LatentSpace, from_codes, keep_all
from core.precision import autocast, low_dtype
from core.prior import PriorOptions
from core.registry import get_domain
from core.rng import SampleStreams
from core.samplers import Callback, Mixed, Sampler, make_sampler
from core.spaces import latent_space
from core.training.distributed import resolve_device
from core.types import Latents, Samples, Tangent, padded

logger = logging.getLogger("disco")
CANDIDATES = 64  # completions per sample where codes are fixed behind free ones


@dataclass(frozen=True)
class Request:
    """What to generate and how. Fields left at None take the model's own defaults.

    count, first, seed: sample numbers first .. first + count - 1 of this seed (a sample's content depends on nothing
    else of the batch); label: class number, one per sample, or None for classes in turn;
    spec: whatever else the domain's ``request`` takes; steps, sampler, guidance: of
    the reverse process; prior: how latents are drawn; codes: [M] or [B, M] latents to use, -1 where the prior draws;
    share_latents: all samples get the latents of the first; low_model: whose score the sampler ``mixed`` takes below
    its threshold, a model of the same data without latents (DisCo-Diff Table 2); batch_size: samples per network call.
    """

    count: int = 1
    first: int = 0
    seed: int = 0
    label: Any = None
    spec: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    sampler: Sampler | None = None
    guidance: Guidance | None = None
    prior: PriorOptions | None = None
    codes: Tensor | None = None
    share_latents: bool = False
    low_model: "Pipeline | None" = None
    batch_size: int = 512


@dataclass(frozen=True)
class Generated:
    """Generated samples. state: clean state of all samples; batch: their numbers and conditions; latents: what they
    were generated under (None in a model without); nfe: network evaluations per sample; scores: [B] figures that the
    model gives to its own samples, by name (``Domain.scores``)."""

    state: Any
    batch: Samples
    latents: Latents | None
    nfe: int
    scores: Mapping[str, Tensor] = field(default_factory=dict)


def _pieces(size: int, batch_size: int) -> list[slice]:
    return [slice(start, min(start + batch_size, size)) for start in range(0, size, batch_size)]


class Pipeline:
    """Denoiser, encoder and prior of one model with its domain."""

    def __init__(
        self,
        domain: Domain,
        networks: Mapping[str, nn.Module],
        device: torch.device | str = "cpu",
        manifest: Manifest | None = None,
        name: str = "",
    ) -> None:
        """manifest: what is known of trained weights; ``save_pretrained`` hands it on; name: of the model's folder."""
        self.manifest, self.name = manifest or Manifest(domain.config, {}), name
        self.domain, self.config, self.device = domain, domain.config, torch.device(device)
        self.geometry = domain.geometry()
        self.networks = {name: net.to(self.device).eval().requires_grad_(False) for name, net in networks.items()}
        self.amp_dtype = low_dtype(self.device, self.config.sampling.precision)
        if self.config.sampling.compile:
            self.networks["denoiser"].compile(backend=self.config.sampling.compile)
        self.space: LatentSpace | None = None
        if self.config.latents.kind != "none":
            self.space = latent_space(self.config.latents)

    @classmethod
    def from_pretrained(cls, folder: Path | str, device: str = "auto", overrides: Sequence[str] = ()) -> "Pipeline":
        """Load a model or run folder. ``overrides``: ``a.b=value`` settings for sampling (model.noise.rho=5).

        Where the domain has a pipeline of its own (docking: ``DockingPipeline``), that is what comes.
        Raises CheckpointError for a missing or damaged folder, ConfigError for a wrong override.
        """
        model = find_model(folder)
        manifest = read_manifest(model)
        raw = apply_overrides(manifest.config.model_dump(mode="json"), overrides)
        domain = get_domain(manifest.config.domain)(parse_config(raw, str(model)))
        kind = domain.pipeline if domain.pipeline is not None and issubclass(domain.pipeline, cls) else cls
        if "denoiser" not in manifest.weights:
            raise CheckpointError(f"{model / MANIFEST}: damaged, it lists no denoiser; copy the model folder again")
        builders = domain.parts()
        networks = {n: load_part(model, n, builders[n](), manifest) for n in manifest.weights if n in builders}
        name = model.parent.name if model.name == "model" else model.name
        return kind(domain, networks, resolve_device(device), manifest, name)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def save_pretrained(self, folder: Path | str) -> None:
        """Write a model folder that ``from_pretrained`` reads."""
        update_model(Path(folder), replace(self.manifest, config=self.config), self.networks)

    def sampler(self, name: str | None = None, options: Mapping[str, Any] | None = None) -> Sampler:
        """Sampler by name (None: the model's own), the domain's names included. Raises ConfigError."""
        return make_sampler(name or self.config.sampling.sampler, options, self.domain.samplers())

    def chosen_sampler(self, request: Request) -> Sampler:
        """The sampler of a request, or else the model's own."""
        own = self.config.sampling
        return request.sampler or self.sampler(own.sampler, own.options)

    @property
    def denoiser(self) -> Denoiser:
        return cast(Denoiser, self.networks["denoiser"])

    @torch.no_grad()
    def generate(self, request: Request = Request(), callback: Callback | None = None, **changes: Any) -> Generated:
        """Generate samples (DisCo-Diff Alg. 3): latents from the prior, then the reverse process under them.

        ``changes``: fields of ``Request``. ``callback`` sees every step of every batch. Raises RequestError for what
        this model cannot do.
        """
        if changes:
            unknown = changes.keys() - {f.name for f in fields(Request)}
            if unknown:
                raise RequestError(
                    f"a request has no '{min(unknown)}'; it has: {', '.join(f.name for f in fields(Request))}"
                )
            request = replace(request, **changes)
        everything = self.samples_of(request)
        return self.generate_under(everything, self.latents_for(request, everything), request, callback)

    @torch.no_grad()
    def generate_under(
        self, batch: Samples, latents: Latents | None, request: Request, callback: Callback | None = None
    ) -> Generated:
        """The samples of a batch under given latents, with the model's own scores. What matters of ``request`` is what
        matters to ``solve``, and batch_size."""
        state, nfe = self.solve_in_pieces(batch, latents, request, callback)
        batch = batch.to(self.device)
        return Generated(state, batch, latents, nfe, self.domain.scores(self.networks, state, batch))

    def samples_of(self, request: Request) -> Samples:
        """Numbers and conditions of the samples of a request. Raises RequestError for what this model cannot do."""
        if request.count < 1 or request.batch_size < 1:
            raise RequestError(f"cannot generate {request.count} samples in batches of {request.batch_size}")
        spec = {**request.spec, **({} if request.label is None else {"label": request.label})}
        return self.domain.request(range(request.first, request.first + request.count), **spec)

    def field(self, batch: Samples, latents: Latents | None, guidance: Guidance | None = None) -> ScoreField:
        """The score of a batch under given latents, for samplers and diagnostics. guidance: None is the model's own."""
        if guidance is None:
            own = self.config.sampling
            low, high = own.guidance_interval or (0.0, math.inf)
            guidance = Guidance(own.guidance, own.class_guidance, (low, high))
        if guidance.latents and latents is not None and self.config.latents.drop == 0:
            raise RequestError("guidance on latents was asked for, and this model was trained without dropping latents")
        latents = None if latents is None else latents.to(self.device)
        return ScoreField(self._score, self.geometry, batch, latents, guidance, self.domain.null_label)

    def _score(self, *arguments: Any) -> Tangent:
        """The denoiser's score, at the precision of sampling."""
        with autocast(self.device, self.amp_dtype):
            score: Tangent = self.denoiser(*arguments)
        return score

    def start(self, batch: Samples, steps: int, seed: int) -> tuple[Any, Tensor, SampleStreams]:
        """Initial noise of a batch, the time grid, and the streams for the noise of later steps."""
        times = self.domain.sampling_times(steps).to(self.device)
        streams = SampleStreams(seed, batch.ids, "noise", self.device)
        return self.geometry.sample_noise(batch, scalar_times(times[0], batch.size), streams), times, streams

    @torch.no_grad()
    def solve(
        self, batch: Samples, latents: Latents | None, request: Request = Request(), callback: Callback | None = None
    ) -> tuple[Any, int]:
        """The reverse process of one batch under given latents: clean state as the domain finishes it, and network
        evaluations per sample.

        Only seed, steps, sampler, guidance and low_model of ``request`` matter here.
        """
        batch = batch.to(self.device)
        sampler, score = self.reverse_process(batch, latents, request)
        state, times, streams = self.start(batch, self.steps_of(request), request.seed)
        clean = sampler.run(score, state, times, streams, callback)
        return self.domain.finish(clean, batch), score.nfe

    def reverse_process(self, batch: Samples, latents: Latents | None, request: Request) -> tuple[Sampler, ScoreField]:
        """Sampler and guided score of a request. Raises RequestError for what this model cannot do."""
        batch = batch.to(self.device)
        return self._sampler_of(request, batch), self.field(batch, latents, request.guidance)

    def _sampler_of(self, request: Request, batch: Samples) -> Sampler:
        """``chosen_sampler``, for one batch."""
        sampler, low = self.chosen_sampler(request), request.low_model
        if low is None:
            return sampler
        if not isinstance(sampler, Mixed):
            raise RequestError("low_model was given, and only the sampler 'mixed' changes the model at a noise level")
        if low.space is not None or not self.domain.same_process(low.domain):
            raise RequestError(
                f"the model below the threshold must be one of '{self.config.domain}' without latents, for samples of "
                f"the same size and classes on the same noise path, and {low.name} is not"
            )
        return replace(sampler, low_field=low.field(batch, None))

    def solve_in_pieces(
        self, batch: Samples, latents: Latents | None, request: Request, callback: Callback | None = None
    ) -> tuple[Any, int]:
        """``solve`` with at most ``request.batch_size`` samples per network call."""
        states, nfe = [], 0
        for piece in _pieces(batch.size, request.batch_size):
            chosen = None if latents is None else latents.select(piece)
            state, nfe = self.solve(batch.select(piece), chosen, request, callback)
            states.append(state)
            if batch.size > request.batch_size:
                logger.info("generated %d of %d samples", piece.stop, batch.size)
        return self.geometry.concatenate(states), nfe

    def steps_of(self, request: Request) -> int:
        """Steps of a request: its own, else those its sampler was published with, else the model's."""
        own = request.sampler.default_steps if request.sampler is not None else None
        steps = request.steps if request.steps is not None else own or self.config.sampling.steps
        if steps < 1:
            raise RequestError(f"cannot sample in {steps} steps: at least one is needed")
        return steps

    @torch.no_grad()
    def latents_for(self, request: Request, batch: Samples) -> Latents | None:
        """Latents of a request: given codes, or samples of the prior; None in a model without latents."""
        if self.space is None:
            if request.codes is not None or request.share_latents:
                raise RequestError("codes or shared latents were asked for, and this model has no latents")
            return None
        fixed, width = self._given_codes(request, batch), self.space.codebook(batch)
        if fixed is not None and (fixed >= 0).all():
            return from_codes(fixed, width)
        pieces = _pieces(1 if request.share_latents else batch.size, request.batch_size)
        if request.share_latents and len(self.space.codebooks(batch).unique()) > 1:
            raise RequestError("samples of different codebooks cannot share latents: ask for one complex at a time")
        options = self._prior_options(request, fixed)
        drawn = (self._from_prior(request.seed, batch, piece, options) for piece in pieces)
        values = torch.cat([padded(piece, width) for piece in drawn])
        return keep_all(values.expand(batch.size, -1, -1))

    def _given_codes(self, request: Request, batch: Samples) -> Tensor | None:
        """[B, M] codes that a request gives, -1 where it leaves them free."""
        given = request.codes if request.codes is not None else request.prior.fixed if request.prior else None
        if given is None or self.space is None:
            return None
        if not self.space.discrete:
            raise RequestError("codes were given, and this model's latents are not discrete")
        codes, size, count = torch.as_tensor(given, device=self.device), batch.size, self.space.count
        limits = self.space.codebooks(batch)
        fits = codes.shape in ((count,), (1, count), (size, count)) and bool((codes >= -1).all())
        if not fits or bool((codes.expand(size, count) >= limits[:, None]).any()):
            raise RequestError(
                f"codes must be {count} numbers from 0 to {int(limits.min()) - 1} (-1 leaves one to the prior), for "
                f"all samples or for each of {size}"
            )
        return codes.expand(size, count)

    def _prior_options(self, request: Request, fixed: Tensor | None) -> PriorOptions:
        """How to draw latents; codes fixed behind free ones are drawn by resampling (see ``PriorOptions``)."""
        defaults = self.config.sampling
        options = request.prior or PriorOptions(defaults.prior_temperature, defaults.top_p)
        if fixed is None:
            return options
        free = fixed < 0
        prefix = bool((free[:, 1:] >= free[:, :-1]).all())
        return replace(
            options, fixed=fixed, candidates=options.candidates if prefix else max(options.candidates, CANDIDATES)
        )

    def _from_prior(self, seed: int, batch: Samples, piece: slice, options: PriorOptions) -> Tensor:
        """[B, M, K] latents of one piece of a batch, drawn from the prior."""
        if self.space is None or "prior" not in self.networks:
            raise RequestError("this model has no prior yet: train it with disco train --stage prior, or give codes")
        part = batch.select(piece).to(self.device)
        streams = SampleStreams(seed, part.ids, "latents", self.device)
        cut = replace(options, fixed=None if options.fixed is None else options.fixed[piece])
        return self.space.sample(self.networks["prior"], part, streams, cut)

    @torch.no_grad()
    def encode(self, batch: Samples, seed: int = 0) -> Latents:
        """Oracle latents: what the encoder reads from clean samples. Raises RequestError without an encoder."""
        if self.space is None:
            raise RequestError("this model has no latents, so it has no encoder")
        batch = batch.to(self.device)
        streams = SampleStreams(seed, batch.ids, "oracle", self.device)
        return keep_all(self.space.extract(self.networks["encoder"](batch), streams))
