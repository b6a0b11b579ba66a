"""KiTS 2023: kidney and masses, masses, tumour; Dice and surface Dice at 1.0331, 1.1329 and 1.1498 mm.

The tolerances are those of github.com/neheller/kits23, kits23/configuration/labels.py.
"""

from hlfd.evaluation.protocol import Protocol
from hlfd.evaluation.protocols._hierarchical import build_hierarchical

TOLERANCES_MM = {
    "kidney_and_mass": 1.0330772532390826,
    "mass": 1.1328796488598762,
    "tumor": 1.1498198361434828,
}


def build() -> Protocol:
    """KiTS 2023: Dice and surface Dice of kidney and masses, of masses and of tumour."""
    return build_hierarchical("kits23", TOLERANCES_MM)
