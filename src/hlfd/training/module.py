"""The one LightningModule: trains a network with labels, and with a teacher where it is given one."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from hlfd.data.augment import flips_and_quarter_turns
from hlfd.distill.distiller import Distiller
from hlfd.distill.features import Features, FrozenTeacher, Tapped
from hlfd.distill.losses import SegmentationLoss
from hlfd.labels import Labels
from hlfd.recipe import TrainingSection

Batch = tuple[Tensor, Tensor, Tensor]


class TrainingModule(pl.LightningModule):
    """Student (or teacher) in training.

    Args:
        network: what is trained.
        distiller: the method's terms; none for a teacher and for the student alone.
        teacher: the frozen teacher; kept out of the module tree, so that no checkpoint holds it.
        labels: the regions whose Dice is logged.
        validation_patients: names of the patients that the batches' last item counts, for the mean over patients.
    """

    def __init__(
        self,
        network: Tapped,
        distiller: Distiller,
        teacher: FrozenTeacher | None,
        labels: Labels,
        validation_patients: int,
        training: TrainingSection,
        seed: int,
    ):
        super().__init__()
        self.network, self.distiller = network, distiller
        self._unregistered_teacher = [teacher]
        self.labels, self.validation_patients = labels, validation_patients
        self.settings, self.seed = training, seed
        self.segmentation_loss = SegmentationLoss()
        self._seconds_before, self._started = 0.0, time.perf_counter()

    @property
    def teacher(self) -> FrozenTeacher | None:
        return self._unregistered_teacher[0]

    def place_teacher(self, device: torch.device) -> None:
        """Move the teacher to ``device``; Lightning doesn't know of it."""
        if self.teacher is not None:
            memory_format = torch.channels_last if self.settings.channels_last else torch.preserve_format
            self.teacher.to(device=device).to(memory_format=memory_format)  # pyright: ignore[reportCallIssue]

    def on_fit_start(self) -> None:
        self.place_teacher(self.device)
        self._started = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Time spent training, also in the calls that this one continues."""
        return self._seconds_before + time.perf_counter() - self._started

    def add_seconds(self, seconds: float) -> None:
        """Count time spent on this run before the fit."""
        self._seconds_before += seconds

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seconds_before = checkpoint["seconds"]

    def prepare_batch(self, batch: Batch, step: int) -> tuple[Tensor, Tensor]:
        """Augmented image and target; random numbers depend on seed and step alone, so a resumed run repeats them."""
        torch.manual_seed(self.seed * 1_000_003 + step)
        image, target, _ = batch
        if self.settings.augment:
            image, target = flips_and_quarter_turns(image, target)
        return self._formatted(image), target

    def _formatted(self, image: Tensor) -> Tensor:
        return image.contiguous(memory_format=torch.channels_last) if self.settings.channels_last else image

    def training_step(self, batch: Batch, batch_index: int) -> Tensor:
        image, target = self.prepare_batch(batch, self.global_step)
        student: Features = self.network(image)
        losses = {"seg": self.segmentation_loss(student["logits"], target)}
        if self.distiller.needs_teacher:
            assert self.teacher is not None
            losses |= self.distiller(student, self.teacher(image), target)
        total = torch.stack(list(losses.values())).sum()
        self.log_dict({f"loss/{name}": value.detach() for name, value in losses.items()})
        self.log("loss/total", total.detach())
        return total

    def on_validation_epoch_start(self) -> None:
        regions = len(self.labels.regions)
        # intersection, prediction, reference: pixels of each patient and region, over all slices of the patient
        self.counts = torch.zeros(3, self.validation_patients, regions, device=self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        image, target, patient = batch
        classes = self.network(self._formatted(image))["logits"].argmax(1)
        for r, members in enumerate(self.labels.regions.values()):
            ids = torch.tensor(members, device=classes.device)
            prediction, reference = torch.isin(classes, ids), torch.isin(target, ids)
            for row, mask in enumerate((prediction & reference, prediction, reference)):
                self.counts[row, :, r].index_add_(0, patient, mask.sum((1, 2)).to(self.counts.dtype))

    def on_validation_epoch_end(self) -> None:
        intersection, prediction, reference = self.counts
        total = prediction + reference
        dice = torch.where(total > 0, 2 * intersection / total.clamp_min(1), 1.0)
        for name, value in zip(self.labels.regions, dice.mean(0), strict=True):
            self.log(f"val/dice_{name}", value)
        self.log("val/dice", dice.mean())

    def configure_optimizers(self) -> Any:
        settings = self.settings
        trainable = [p for p in (*self.network.parameters(), *self.distiller.parameters()) if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=settings.lr, weight_decay=settings.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        warmup = min(settings.warmup_steps, steps - 1)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup, settings.lr_min)
        schedule: Any = cosine
        if warmup:
            rise = torch.optim.lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=warmup)
            schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [rise, cosine], [warmup])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
