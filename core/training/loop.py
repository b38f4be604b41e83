"""The training loop, the same for every stage."""

import contextlib
import logging
import math
import shutil
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from core.config import StageConfig
from core.data import EpochOrder
from core.errors import ConfigError, DataError, DiscoError, TrainingError
from core.interfaces import Dataset, Stage
from core.precision import autocast, low_dtype
from core.rng import SampleStreams, derive_key
from core.training.distributed import World
from core.training.ema import EMA
from core.training.logs import JsonlLog, ProgressBar
from core.training.state import load_newest, save_state

logger = logging.getLogger("disco")


class Interrupted(Exception):
    """Training was stopped by a signal; its state is saved."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


@dataclass(frozen=True)
class TrainingJob:
    """What is trained, on what, how and where.

    folder: the run folder; seed: of data order and all noise; quiet: no progress;
    built_on: checksums of the trained networks that the stage was built on.
    """

    stage: Stage
    dataset: Dataset
    config: StageConfig
    folder: Path
    seed: int
    world: World
    quiet: bool = False
    built_on: Mapping[str, str] = field(default_factory=dict)


class _MicroBatches:
    """Micro-batch number i of this process, as a dataset that DataLoader can spread over workers."""

    def __init__(self, job: TrainingJob) -> None:
        self.dataset, self.order = job.dataset, EpochOrder(len(job.dataset), job.seed)
        self.batch, self.pieces = job.config.batch, job.config.accumulate
        share = job.world.share(job.config.batch)
        self.first, self.size = share.start, len(share) // self.pieces

    def __getitem__(self, number: int) -> Any:
        step, piece = divmod(number, self.pieces)
        start = step * self.batch + self.first + piece * self.size
        places = range(start, start + self.size)
        try:
            return self.dataset.load(self.order.indices(places), np.asarray(places))
        except DiscoError as error:  # for the main process: what a worker raises comes wrapped in a traceback
            return error


def _intact(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, up to one that could not be made, whose error is raised."""
    for batch in batches:
        if isinstance(batch, DiscoError):
            raise batch
        yield batch


def samples_per_call(name: str, config: StageConfig, processes: int) -> int:
    """Of one micro-batch of one process. Raises ConfigError where the batch cannot be split so."""
    parts = processes * config.accumulate
    if config.batch % parts:
        raise ConfigError(
            f"train.{name}.batch = {config.batch} cannot be split over {processes} process(es) "
            f"x {config.accumulate} micro-batches: choose a multiple of {parts}"
        )
    return config.batch // parts


class Trainer:
    """Runs one stage from wherever it was left to its last step."""

    def __init__(self, job: TrainingJob) -> None:
        config, world = job.config, job.world
        samples_per_call(job.stage.name, config, world.size)
        if len(job.dataset) == 0:
            raise DataError("the training set is empty")
        self.job, self.config, self.world = job, config, world
        self.stage = job.stage.to(world.device)
        self.trainable = [p for p in self.stage.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trainable, lr=config.lr, betas=config.betas, weight_decay=config.weight_decay, foreach=True
        )
        self.ema = EMA(self.stage, config.ema)
        self.states = job.folder / "state" / job.stage.name
        self.amp_dtype = low_dtype(world.device, config.precision)
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=self.amp_dtype == torch.float16)
        self.step = 0
        self._signal: int | None = None
        self._restore()

    @property
    def finished(self) -> bool:
        return self.step >= self.config.steps

    def run(self) -> None:
        """Train to the last step. Raises Interrupted on SIGTERM and SIGINT, TrainingError if the loss is not finite."""
        self.stage.train()
        if self.config.compile:
            for part in self.stage.parts().values():
                part.compile(backend=self.config.compile)
        self.forward = self.world.wrap(self.stage)
        log, bar = self._open_log()
        batches = iter(self._batches())
        saved, since = self.step, time.perf_counter()
        try:
            with self._signals():
                while not self.finished:
                    values, norm = self._optimise(batches)
                    self.step += 1
                    if self.step % self.config.log_every == 0 or self.finished:
                        row = self._log_row(values, norm, time.perf_counter() - since)
                        since = time.perf_counter()
                        if log is not None and bar is not None:
                            log.write(row)
                            bar.update(self.step, f"loss {row['loss']:.4f}")
                    stopped = self.world.any(self._signal is not None)
                    if self.step % self.config.checkpoint_every == 0 or self.finished or stopped:
                        self._save()
                        saved = self.step
                    if stopped:
                        raise Interrupted(self._signal or signal.SIGTERM)
        finally:
            if bar is not None:
                bar.close()
            if log is not None:
                log.close()
            if saved < self.step:
                logger.info("the last saved state of stage '%s' is step %d", self.job.stage.name, saved)

    def _optimise(self, batches: Iterator[Any]) -> tuple[dict[str, Tensor], float]:
        """One optimiser step. Returns the mean of every logged value over the global batch, and the gradient norm."""
        pieces = self.config.accumulate
        totals: dict[str, Tensor] = {}
        # Networks that use torch's own generator (dropout) get a fresh, reproducible seed every step.
        self._seed_torch()
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, self.step)
        self.optimizer.zero_grad(set_to_none=True)
        for piece in range(pieces):
            batch = next(batches).to(self.world.device)
            streams = SampleStreams(self.job.seed, batch.ids, f"train/{self.stage.name}", self.world.device)
            with self._no_sync(piece < pieces - 1):
                with autocast(self.world.device, self.amp_dtype):
                    values = self.forward(batch, streams)
                loss = values["loss"].mean() / pieces
                self.scaler.scale(loss).backward()
            for name, value in values.items():
                totals[name] = totals.get(name, torch.zeros_like(value[0].detach())) + value.detach().mean() / pieces
        totals = {name: self.world.mean(value) for name, value in totals.items()}
        for parameter in self.stage.frozen(self.step):  # AdamW passes over what has no gradient
            parameter.grad = None
        self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.trainable, self.config.clip or math.inf)
        self._check_finite(totals["loss"], norm)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # else fp16 overflowed, and the step was left out
            self.ema.update()
        return totals, float(norm)

    def _seed_torch(self) -> None:
        seed = derive_key(self.job.seed, f"torch/{self.step}/{self.world.rank}")[0]
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _check_finite(self, loss: Tensor, norm: Tensor) -> None:
        """Looks at both at once: on a GPU every look waits for all that was asked of it. Gradients that overflow in
        fp16 are the scaler's."""
        for what, value in zip(("loss", "gradient norm"), torch.stack([loss, norm]).tolist(), strict=True):
            if not math.isfinite(value) and not (what == "gradient norm" and self.scaler.is_enabled()):
                raise TrainingError(
                    f"stage '{self.job.stage.name}': the {what} is {value} at step {self.step}; the last state in "
                    f"{self.states} is untouched. Train in another folder with a lower "
                    f"train.{self.job.stage.name}.lr or train.{self.job.stage.name}.clip=1.0, or check the data for NaN"
                )

    def _log_row(self, values: dict[str, Tensor], norm: float, seconds: float) -> dict[str, Any]:
        row: dict[str, Any] = {"step": self.step, "samples": self.step * self.config.batch}
        row |= {name: float(value) for name, value in values.items()}
        # optimizer.param_groups still holds the rate that this step used
        return row | {"grad_norm": norm, "lr": self.optimizer.param_groups[0]["lr"], "seconds": round(seconds, 4)}

    def _batches(self) -> Iterator[Any]:
        pieces = self.config.accumulate
        numbers: Sequence[int] = range(self.step * pieces, self.config.steps * pieces)
        data = _MicroBatches(self.job)
        if not self.config.workers:
            return _intact(data[n] for n in numbers)
        loader: DataLoader[Any] = DataLoader(
            data,  # type: ignore[arg-type]
            batch_size=None,
            sampler=numbers,
            **loader_options(self.world.device, self.config.workers),
        )
        return _intact(loader)

    def _no_sync(self, more_to_come: bool) -> AbstractContextManager[Any]:
        if more_to_come and isinstance(self.forward, DistributedDataParallel):
            return self.forward.no_sync()
        return contextlib.nullcontext()

    def _open_log(self) -> tuple[JsonlLog | None, ProgressBar | None]:
        if not self.world.is_main:
            return None, None
        name, path = self.stage.name, self.job.folder / f"log-{self.stage.name}.jsonl"
        log = JsonlLog(path, self.step)
        return log, ProgressBar(f"training {name}", self.config.steps, self.step, self.job.quiet)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Note SIGTERM and SIGINT; they are acted on after the step, when the state can be saved whole."""

        def note(signum: int, frame: object) -> None:
            self._signal = signum

        before = {s: signal.signal(s, note) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _save(self) -> None:
        if self.world.is_main:
            state = {
                "stage": self.stage.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "ema": self.ema.state_dict(),
                "scaler": self.scaler.state_dict(),
                "built_on": dict(self.job.built_on),
            }
            save_state(self.states, self.step, state, self.config.keep)
        self.world.barrier()

    def _restore(self) -> None:
        state = load_newest(self.states)
        if state is None:
            return
        if state["built_on"] != dict(self.job.built_on):
            logger.warning("stage '%s' was trained on networks that have changed since: starting over", self.stage.name)
            self.world.barrier()
            if self.world.is_main:
                shutil.rmtree(self.states)
            self.world.barrier()
            return
        self.stage.load_state_dict(state["stage"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema.load_state_dict(state["ema"])
        if state["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]


def loader_options(device: torch.device, workers: int) -> dict[str, Any]:
    """How DataLoader brings batches to a device from ``workers`` processes, at least 1.

    For a GPU a thread takes them from the processes into pinned memory, while the step before them runs. Batches that
    have no ``pin_memory`` stay where they are.
    """
    return {"num_workers": workers, "pin_memory": device.type == "cuda", "worker_init_fn": _ignore_signals}


def _ignore_signals(worker: int) -> None:
    """A signal to the whole process group must not take the loaders away while the trainer saves its state."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def learning_rate(config: StageConfig, step: int) -> float:
    """Rate of optimiser step number ``step`` (from 0): linear warm-up, then constant or half a cosine to zero."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.decay == "constant":
        return config.lr * warm
    return config.lr * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))
