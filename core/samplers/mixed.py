"""Change the sampler, the model or the latents at a noise level."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from core.guidance import ScoreField
from core.rng import SampleStreams
from core.samplers.base import Callback, Sampler, Step, check_noise
from core.samplers.ode import Heun
from core.samplers.sde import DDPM


@dataclass(frozen=True)
class Segment:
    """One stretch of the reverse process: a sampler on its own grid, with its own score field if it is another."""

    sampler: Sampler
    times: Tensor
    field: ScoreField | None = None


def run_segments(
    segments: list[Segment], field: ScoreField, state: Any, streams: SampleStreams, callback: Callback | None = None
) -> Any:
    """Run stretches one after the other; each must begin at the time where the one before ended."""
    done = 0
    for segment in segments:
        offset = done

        def shifted(step: Step, offset: int = offset) -> None:
            if callback is not None:
                callback(replace(step, index=step.index + offset))

        used = segment.field or field
        before = used.nfe
        state = segment.sampler.run(used, state, segment.times, streams, shifted)
        if used is not field:
            field.nfe += used.nfe - before  # the caller asks the first field for the total
        done += len(segment.times) - 1
    return state


@dataclass(frozen=True)
class Mixed(Sampler):
    """``high`` down to the first grid time with noise level <= threshold, then ``low`` (DisCo-Diff section 4.1: ODE for
    t >= 10, DDPM below). ``low_field``: another model below the threshold.
    Its evaluations are added to ``field.nfe``.
    """

    threshold: float = 10.0
    high: Sampler = field(default_factory=Heun)
    low: Sampler = field(default_factory=DDPM)
    low_field: ScoreField | None = None

    def run(
        self, field: ScoreField, state: Any, times: Tensor, streams: SampleStreams, callback: Callback | None = None
    ) -> Any:
        for part in (self.high, self.low):
            check_noise(field.geometry, part)
        below = field.geometry.noise_level(times) <= self.threshold
        # argmax finds the first True; the grid ends noise-free, so there is one for every threshold >= 0.
        split = int(torch.argmax(below.int()))
        segments = [Segment(self.high, times[: split + 1]), Segment(self.low, times[split:], self.low_field)]
        return run_segments(segments, field, state, streams, callback)
