"""The doctor: reads a data set as it is on disk and says what is wrong or odd, and what is done about it."""

from hlfd.doctor.report import SCHEMA, Finding, Report
from hlfd.doctor.run import check_root

__all__ = ["SCHEMA", "Finding", "Report", "check_root"]
