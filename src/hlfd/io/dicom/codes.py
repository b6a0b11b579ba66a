"""Coded names of what is segmented: SNOMED CT, as DICOM's vocabularies use it (PS3.16, CID 7150, 7154, 7159)."""

import re
from dataclasses import dataclass

from hlfd.io.dicom._library import hashed

PRIVATE = "99HLFD"


@dataclass(frozen=True)
class Code:
    """A coded concept: value, scheme (``SCT``: SNOMED CT) and meaning."""

    value: str
    scheme: str
    meaning: str


ANATOMY = Code("91723000", "SCT", "Anatomical Structure")
ABNORMAL = Code("49755003", "SCT", "Morphologically Abnormal Structure")
TISSUE = Code("85756007", "SCT", "Tissue")
SIDES = {"left": Code("7771000", "SCT", "Left"), "right": Code("24028007", "SCT", "Right")}

ORGANS = {
    "kidney": Code("64033007", "SCT", "Kidney"),
    "liver": Code("10200004", "SCT", "Liver"),
    "spleen": Code("78961009", "SCT", "Spleen"),
    "pancreas": Code("15776009", "SCT", "Pancreas"),
    "gallbladder": Code("28231008", "SCT", "Gallbladder"),
    "stomach": Code("69695003", "SCT", "Stomach"),
    "duodenum": Code("38848004", "SCT", "Duodenum"),
    "colon": Code("71854001", "SCT", "Colon"),
    "esophagus": Code("32849002", "SCT", "Esophagus"),
    "adrenal gland": Code("23451007", "SCT", "Adrenal gland"),
    "bladder": Code("89837001", "SCT", "Bladder"),
    "prostate": Code("41216001", "SCT", "Prostate"),
    "lung": Code("39607008", "SCT", "Lung"),
    "heart": Code("80891009", "SCT", "Heart"),
    "aorta": Code("15825003", "SCT", "Aorta"),
    "inferior vena cava": Code("64131007", "SCT", "Inferior vena cava"),
    "portal vein": Code("32764006", "SCT", "Portal vein"),
}
LESIONS = {
    "tumor": Code("108369006", "SCT", "Neoplasm"),
    "cyst": Code("367643001", "SCT", "Cyst"),
    "mass": Code("4147007", "SCT", "Mass"),
    "lesion": Code("52988006", "SCT", "Lesion"),
    "metastasis": Code("128462008", "SCT", "Metastasis"),
}
ALSO = {
    "tumour": "tumor", "tumors": "tumor", "tumours": "tumor", "neoplasm": "tumor", "cancer": "tumor",
    "carcinoma": "tumor", "metastases": "metastasis", "nodule": "lesion", "nodules": "lesion",
    "kidneys": "kidney", "renal": "kidney", "hepatic": "liver", "hepar": "liver", "pancreatic": "pancreas",
    "cysts": "cyst", "masses": "mass", "lesions": "lesion", "lungs": "lung", "gall bladder": "gallbladder",
    "oesophagus": "esophagus", "urinary bladder": "bladder", "vena cava": "inferior vena cava",
}  # fmt: skip


@dataclass(frozen=True)
class CodedName:
    """What a name means: category and type, with the organ a lesion is in and the side where the name says them."""

    category: Code
    type: Code
    region: Code | None = None
    side: Code | None = None


def coded(name: str, organ: str | None = None) -> CodedName:
    """The codes for a name like ``kidney``, ``left kidney``, ``liver_tumor``; a private code for a name unknown here.

    Args:
        name: in any spelling: case, underscores and word order don't matter.
        organ: where a lesion lies if its own name doesn't say.
    """
    part = _parts(name)
    if part.lesion:
        region = ORGANS.get(part.organ or (_parts(organ).organ if organ else ""))
        return CodedName(ABNORMAL, LESIONS[part.lesion], region, SIDES.get(part.side))
    if part.organ:
        return CodedName(ANATOMY, ORGANS[part.organ], None, SIDES.get(part.side))
    value = re.sub(r"[^A-Z0-9]", "", name.upper())
    value = value if name.isascii() and 0 < len(value) <= 16 else hashed(name, 16).upper()
    return CodedName(TISSUE, Code(value, PRIVATE, name[:64]))


def same(wanted: str, label: str, type_meaning: str, code: str, region: str = "") -> bool:
    """Whether a segment is what is wanted: by its label, by the meaning of its type, or by its code.

    ``kidney`` takes either side, ``left kidney`` the left; ``tumor`` takes any organ's, ``liver tumor`` the liver's.
    """
    if wanted.strip().lower() in (label.strip().lower(), type_meaning.strip().lower(), code.lower()):
        return True
    want = _parts(wanted)
    if not (want.organ or want.lesion):
        return False
    for name in (label, type_meaning, f"{region} {type_meaning}"):
        got = _parts(name)
        if got.known and (want.lesion, want.side or got.side) == (got.lesion, got.side):
            return want.organ in ("", got.organ)
    return False


@dataclass(frozen=True)
class _Parts:
    organ: str = ""
    lesion: str = ""
    side: str = ""
    known: bool = False


def _parts(name: str) -> _Parts:
    """The words of a name that the tables know; ``known`` if they know all of them."""
    text = f" {' '.join(re.findall(r'[a-z0-9]+', name.lower()))} "
    for other, usual in sorted(ALSO.items(), key=lambda pair: -len(pair[0])):
        if f" {usual} " not in text:
            text = text.replace(f" {other} ", f" {usual} ")
    found: dict[str, str] = {}
    for kind, table in (("organ", ORGANS), ("lesion", LESIONS), ("side", SIDES)):
        for word in sorted(table, key=len, reverse=True):
            if f" {word} " in text:
                found[kind] = word
                text = text.replace(f" {word} ", " ", 1)
                break
    rest = text.strip()
    return _Parts(**found, known=True) if found and not rest else _Parts()
