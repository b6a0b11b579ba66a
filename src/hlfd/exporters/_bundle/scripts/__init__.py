"""What MONAI's own transforms do not do as the model needs it. Needs PyTorch and MONAI alone."""

from .slices import CropSlicesd, Neighboursd, ResizeSlicesd, RestoreSlicesd, files, segment

__all__ = ["CropSlicesd", "Neighboursd", "ResizeSlicesd", "RestoreSlicesd", "files", "segment"]
