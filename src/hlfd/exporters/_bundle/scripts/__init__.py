"""What MONAI's own transforms do not do as the model needs it. Needs PyTorch and MONAI alone."""

from .slices import CropSlicesd, ResizeSlicesd, RestoreSlicesd, files, segment

__all__ = ["CropSlicesd", "ResizeSlicesd", "RestoreSlicesd", "files", "segment"]
