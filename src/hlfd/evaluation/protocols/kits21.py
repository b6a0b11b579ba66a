"""KiTS 2021: kidney and masses, masses, tumour; Dice and surface Dice at 2.1781, 1.3930 and 1.5363 mm.

The tolerances are those of github.com/neheller/kits21, kits21/configuration/labels.py at commit 14e9dca. A later commit
(697892b) replaced them by those that `kits23` has, so tables of that challenge exist with both.
"""

from hlfd.evaluation.protocol import Protocol
from hlfd.evaluation.protocols._hierarchical import build_hierarchical

TOLERANCES_MM = {
    "kidney_and_mass": 2.1780822681004897,
    "mass": 1.3929527150618852,
    "tumor": 1.536272517110166,
}


def build() -> Protocol:
    """KiTS 2021: Dice and surface Dice of kidney and masses, of masses and of tumour."""
    return build_hierarchical("kits21", TOLERANCES_MM)
