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
        job, training = self.job, self.job.training
        sampler = EpochSampler(
            self.train.shows_tumor(),
            samples=training.samples_per_epoch,
            rare_share=training.rare_share,
            seed=job.seed,
            labelled=self.train.labelled,
            unlabelled_share=training.unlabelled_share if job.unlabelled is not None else 0.0,
        )
        rank, ranks = (self._rank, self._ranks) if ranks is None or rank is None else (rank, ranks)
        if len(sampler) < ranks:
            raise InputError(f"expected a sample an epoch for each of {ranks} processes, got {len(sampler)}")
        share = Share(sampler, rank, ranks)
        return self._loader(self.train, share, drop_last=len(share) >= training.batch_size)

    def val_dataloader(self) -> DataLoader[Any]:
        """Validation batches of this process."""
        return self._loader(self.validation, Share(range(len(self.validation)), self._rank, self._ranks, even=False))

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _ranks(self) -> int:
        return self.trainer.world_size if self.trainer else 1

    def _loader(self, dataset: Samples, sampler: Sampler[int], drop_last: bool = False) -> DataLoader[Any]:
        gpu, workers = torch.cuda.is_available(), self.job.machine.loader_workers
        workers = (2 if gpu else 0) if workers is None else workers
        return DataLoader(
            dataset,
            self.job.training.batch_size,
            sampler=sampler,
            drop_last=drop_last,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=gpu,
        )
