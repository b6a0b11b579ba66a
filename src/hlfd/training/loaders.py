"""The batches of one process."""

from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Sampler

from hlfd.data.samples import EpochSampler, Samples, Share
from hlfd.errors import InputError
from hlfd.training.job import Job


class Loaders(pl.LightningDataModule):
    """Training and validation batches, each process's share of them.

    The processes' batches of one step together are the batch that one process of as many times the size would see. A
    validation slice is seen by one process, once.
    """

    def __init__(self, job: Job, train: Samples, validation: Samples):
        super().__init__()
        self.job, self.train, self.validation = job, train, validation

    def train_dataloader(self, rank: int | None = None, ranks: int | None = None) -> DataLoader[Any]:
        """Training batches, in the order that seed and epoch decide; of this process unless another is named."""
        rank, ranks = (self._rank, self._ranks) if ranks is None or rank is None else (rank, ranks)
        size = self.job.training.batch_size
        sampler = self._order(self.job.seed, size * ranks)
        if len(sampler) < ranks:
            raise InputError(f"expected a sample an epoch for each of {ranks} processes, got {len(sampler)}")
        share = Share(sampler, rank, ranks)
        return self._loader(self.train, share, size, drop_last=len(share) >= size)

    def whole_batches(self, seed: int) -> DataLoader[Any]:
        """Training batches of all processes together, in another seed's order."""
        size = self.job.training.batch_size * self.job.machine.processes
        order = self._order(seed, size)
        return self._loader(self.train, order, size, drop_last=len(order) >= size)

    def _order(self, seed: int, batch: int) -> EpochSampler:
        training = self.job.training
        return EpochSampler(
            self.train.shows_tumor(),
            samples=training.samples_per_epoch,
            rare_share=training.rare_share,
            seed=seed,
            labelled=self.train.labelled,
            unlabelled_share=training.unlabelled_share if self.job.unlabelled is not None else 0.0,
            batch=batch,
        )

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches of this process."""
        if len(self.validation) < self._ranks:
            raise InputError(
                f"expected a validation sample for each of {self._ranks} processes, got {len(self.validation)}"
            )
        share = Share(range(len(self.validation)), self._rank, self._ranks, even=False)
        return self._loader(self.validation, share, self.job.training.batch_size)

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _loader(
        self, dataset: Samples, sampler: Sampler[int], size: int, *, drop_last: bool = False
    ) -> DataLoader[Any]:
        gpu, workers = torch.cuda.is_available(), self.job.machine.loader_workers
        workers = (2 if gpu else 0) if workers is None else workers
        return DataLoader(
            dataset,
            size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=gpu,
        )
