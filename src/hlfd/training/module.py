"""The one LightningModule: trains a network with labels, and with teachers where it is given any."""

import statistics
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch
from torch import Tensor

from hlfd.data.augment import draw_orientations, moved, oriented, perturbed
from hlfd.data.samples import Samples
from hlfd.distill import diagnosis
from hlfd.distill.features import Features, Tapped, channels_last
from hlfd.distill.losses import SegmentationLoss
from hlfd.distill.teaching import Teaching
from hlfd.labels import Labels
from hlfd.progress import console
from hlfd.sections import TrainingSection

Batch = tuple[Tensor, Tensor, Tensor]

READINGS = 5  # of a term's gradient, whose median is judged
BALANCE_EVERY = 10
LOG_EVERY = 10  # optimiser's steps


def rank_seed(seed: int, step: int, rank: int, ranks: int) -> int:
    """Seed of the random numbers that one of ``ranks`` processes draws in a step."""
    return (seed * 1_000_003 + step) * ranks + rank


class Prepared(NamedTuple):
    """A batch as student and teacher see it.

    Attributes:
        student, teacher: images; the same unless the student's alone are perturbed.
        addresses: under which a cache knows the teacher's images; None: they won't come again.
    """

    student: Tensor
    teacher: Tensor
    target: Tensor
    addresses: list[str] | None


class TrainingModule(pl.LightningModule):
    """Student (or teacher) in training.

    Args:
        network: what is trained.
        teaching: the teachers and the method's terms; none of them for a teacher and for the student alone.
        labels: the regions whose Dice is logged.
        train, validation: the datasets whose positions the batches count; None where only the optimiser is of interest.
        compile: the teachers run through `torch.compile`.
    """

    def __init__(
        self,
        network: Tapped,
        teaching: Teaching,
        labels: Labels,
        train: Samples | None,
        validation: Samples | None,
        training: TrainingSection,
        seed: int,
        *,
        compile: bool = False,
    ):
        super().__init__()
        self.compiles = compile
        self.network, self.teaching = network, teaching
        self.labels = labels
        self.addresses = train.addresses() if train else []
        for name, dataset in (("patient_of", train), ("validation_patient_of", validation)):
            places = dataset.patient_of() if dataset else torch.zeros(0, dtype=torch.long)
            self.register_buffer(name, places, persistent=False)
        self.validation_patients = len(validation.patients) if validation else 0
        self.settings, self.seed = training, seed
        self.rank, self.ranks, self.batches = 0, 1, 0
        self.segmentation_loss = SegmentationLoss()
        self._seconds_before, self._started, self.head_seconds = 0.0, time.perf_counter(), 0.0
        self._ratios: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=READINGS))
        self._warned: set[str] = set()

    def patients_of(self, batch: Batch) -> Tensor:
        """For each sample the place of its patient among the training patients."""
        return self.get_buffer("patient_of").to(batch[2].device)[batch[2]]

    def load_heads(self, checkpoint: Path) -> None:
        """Take the teachers' fitted heads from a checkpoint, before the rest of it is restored."""
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")["state_dict"]
        own = {key.removeprefix("teaching."): value for key, value in state.items() if key.startswith("teaching.")}
        self.teaching.load_state_dict(own)

    def place_teachers(self, device: torch.device) -> None:
        """Move the teachers to ``device``; Lightning doesn't know of them."""
        self.teaching.place(device)
        if self.compiles:
            for teacher in self.teaching.teachers:
                teacher.compile()

    def on_fit_start(self) -> None:
        self.place_teachers(self.device)
        self._started = time.perf_counter()
        self.rank, self.ranks = self.trainer.global_rank, self.trainer.world_size
        self.segmentation_loss.pooled = self.ranks > 1
        self.teaching.timed = self._timed

    def _timed(self, part: str) -> AbstractContextManager[Any]:
        return self.trainer.profiler.profile(part)  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def seconds(self) -> float:
        """Time spent training, also in the calls that this one continues; without `head_seconds`."""
        return self._seconds_before + time.perf_counter() - self._started

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {"seconds": self.seconds, "head_seconds": self.head_seconds}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seconds_before, self.head_seconds = checkpoint["seconds"], checkpoint.get("head_seconds", 0.0)

    def prepare_batch(self, batch: Batch, step: int, seed: int | None = None) -> Prepared:
        """The batch augmented.

        Random numbers depend on seed, step (counted in batches) and place in the batch alone: a resumed run repeats
        them, and several processes draw what one of as many times the batch size would.

        Args:
            seed: another than the run's.
        """
        seed = self.seed if seed is None else seed
        torch.manual_seed(rank_seed(seed, step, 0, 1))
        image, settings = batch[0], self.settings.augmentation
        drawn = torch.zeros(len(image), dtype=torch.long)
        if settings.turns:
            everybody = draw_orientations(len(image) * self.ranks, (image.shape[-2], image.shape[-1]))
            drawn = everybody[self.rank :: self.ranks]
        seeds: list[int] = []
        if settings.spatial or settings.intensity != "off":
            seeds = torch.randint(2**31, (len(image) * self.ranks,))[self.rank :: self.ranks].tolist()
        if self.ranks > 1:  # what else a network draws is each process's own
            torch.manual_seed(rank_seed(seed, step, self.rank, self.ranks))
        turned = self.turned(batch, drawn)
        taught, target = turned.student, turned.target
        if settings.spatial:
            taught, target = moved(taught, target, seeds)
        seen = taught if settings.intensity == "off" else perturbed(taught, seeds)
        if settings.intensity == "both":
            taught = seen
        addresses = None if settings.endless else turned.addresses
        return Prepared(self._formatted(seen), self._formatted(taught), target, addresses)

    def turned(self, batch: Batch, drawn: Tensor) -> Prepared:
        """The batch in an orientation for each sample."""
        image, target, position = batch
        if drawn.any():
            image, target = oriented(image, drawn), oriented(target, drawn)
        addresses = [
            f"{self.addresses[p]}:{o}" for p, o in zip(position.tolist(), drawn.tolist(), strict=True) if self.addresses
        ]
        return Prepared(self._formatted(image), self._formatted(image), target, addresses)

    def _formatted(self, image: Tensor) -> Tensor:
        if not self.settings.channels_last:
            return image
        return image.contiguous(memory_format=channels_last(self.network.dims))

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        an_epoch = int(self.trainer.num_training_batches)
        self.batches = self.current_epoch * an_epoch + batch_index
        with self._timed("data"):
            ready = self.prepare_batch(batch, self.batches)
        with self._timed("student"):
            student: Features = self.network(ready.student)
        self.teaching.set_epoch(self.batches / max(an_epoch, 1))
        with self._timed("losses"):
            task = self.segmentation_loss(student["logits"], ready.target)
        terms = self.teaching(ready.teacher, student, ready.target, self.patients_of(batch), ready.addresses)
        with self._timed("gradients"):
            self._read_gradients(student, task, terms)
        self.batches += 1
        losses = {"seg": task, **terms}
        total = torch.stack(list(losses.values())).sum()
        if (self.trainer.global_step + 1) % LOG_EVERY == 0:  # others aren't written, but exchanged
            shown = {f"loss/{name}": value.detach() for name, value in (losses | {"total": total}).items()}
            with self._timed("logging"):
                self.log_dict(shown, sync_dist=self.ranks > 1)
        return total

    def _read_gradients(self, student: Features, task: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Log each term's pull, warn of one that drowns the task or does nothing, and balance if asked to."""
        every, step = self.settings.diagnose_every, self.batches
        logs, balances = (
            bool(every) and step % every == 0,
            self.settings.balance != "none" and step % BALANCE_EVERY == 0,
        )
        taught = self.teaching.taps_taught()
        if not taught or not (logs or balances):
            return
        weights = self.teaching.weights()
        active = [name for name in taught if weights[name] and name in terms]
        found = diagnosis.pulls(student, task, {name: terms[name] for name in active})
        ratios = self._mean_of_ranks(diagnosis.at_own_taps(found, taught, active), list(taught))
        if logs:
            self._log_pulls(found)
            for name, ratio in ratios.items():
                self._ratios[name].append(ratio)
                if len(self._ratios[name]) == READINGS:
                    self._judge(name)
        if balances:
            factors = self.teaching.balance_factors()
            self.teaching.set_balance(diagnosis.balanced(factors, ratios, weights))

    def _judge(self, name: str) -> None:
        """Warn, once, of a term that drowns the task or does nothing."""
        taps = self.teaching.taps_taught()[name]
        warning = diagnosis.verdict(name, statistics.median(self._ratios[name]), taps)
        if warning and name not in self._warned:
            self._warned.add(name)
            console.print(f"warning: {warning}", highlight=False, markup=False)

    def on_fit_end(self) -> None:
        for name in self._ratios:  # of a run too short for as many readings as are wanted
            self._judge(name)

    def _mean_of_ranks(self, values: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
        """Name -> mean over the processes that have a value. One exchange of all names, whatever a process has."""
        if self.ranks == 1:
            return dict(values)
        own = torch.tensor([[values.get(name, 0.0), name in values] for name in names], device=self.device)
        summed: Any = self.trainer.strategy.reduce(own, reduce_op="sum")
        return {name: value / n for name, (value, n) in zip(names, summed.tolist(), strict=True) if n}

    def _log_pulls(self, found: Mapping[tuple[str, str], diagnosis.Pull]) -> None:
        values = {f"grad/{term}/{tap}": pull.ratio for (term, tap), pull in found.items()}
        values |= {f"cos/{term}/{tap}": pull.cosine for (term, tap), pull in found.items()}
        if self.settings.balance != "none":
            values |= {f"balance/{name}": factor for name, factor in self.teaching.balance_factors().items()}
        if self.trainer.is_global_zero:
            for logger in self.loggers:
                logger.log_metrics(values, self.global_step)

    def on_validation_epoch_start(self) -> None:
        regions = len(self.labels.regions)
        # intersection, prediction, reference: voxels of each patient and region, over all samples of the patient
        self.counts = torch.zeros(3, self.validation_patients, regions, device=self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        image, target, position = batch
        patient = self.get_buffer("validation_patient_of")[position]
        classes = self.network(self._formatted(image))["logits"].argmax(1)
        known = target >= 0  # not so beyond the stack, where a patch reaches
        for r, members in enumerate(self.labels.regions.values()):
            ids = torch.tensor(members, device=classes.device)
            prediction, reference = torch.isin(classes, ids), torch.isin(target, ids)
            for row, mask in enumerate((prediction & reference, prediction, reference)):
                counted = (mask & known).flatten(1).sum(1)
                self.counts[row, :, r].index_add_(0, patient, counted.to(self.counts.dtype))

    def on_validation_epoch_end(self) -> None:
        counts = self.counts
        if self.ranks > 1:  # each slice was counted by one process
            counts = self.trainer.strategy.reduce(counts, reduce_op="sum")
        intersection, prediction, reference = counts
        total = prediction + reference
        dice = torch.where(total > 0, 2 * intersection / total.clamp_min(1), 1.0)
        for name, value in zip(self.labels.regions, dice.mean(0), strict=True):
            self.log(f"val/dice_{name}", value, sync_dist=self.ranks > 1)
        self.log("val/dice", dice.mean(), sync_dist=self.ranks > 1)

    def configure_optimizers(self) -> Any:
        settings = self.settings
        trainable = [p for p in (*self.network.parameters(), *self.teaching.parameters()) if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=settings.lr, weight_decay=settings.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = min(settings.warmup_steps, steps - 1)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, settings.lr_min)
        schedule: Any = cosine
        if warmup:
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, cosine], [warmup])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
