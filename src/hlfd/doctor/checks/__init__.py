"""The checks, by what they look at. Importing the modules fills the list."""

from hlfd.doctor.checks import anatomy, dicom, files, geometry, together, values
from hlfd.doctor.registry import CHECKS

__all__ = ["CHECKS", "anatomy", "dicom", "files", "geometry", "together", "values"]
