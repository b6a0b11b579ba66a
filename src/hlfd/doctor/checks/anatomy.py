"""Anatomy: images whose axes say one thing and whose organs another. Needs the voxels."""

from collections.abc import Iterator

from hlfd.doctor.facts import CaseFacts
from hlfd.doctor.registry import DataSet, check_case

BELIEVED = "the affine is believed"
MEND = "mend the affine"
_RIGHT, _LEFT = ("liver", "hepat", "right", "gallbladder"), ("spleen", "left", "stomach")


def _side(name: str) -> int:
    """1: the region lies on the patient's right, -1: left, 0: either."""
    name = name.lower()
    return any(word in name for word in _RIGHT) - any(word in name for word in _LEFT)


@check_case("wrong-side", "warning", BELIEVED, MEND)
def wrong_side(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """The liver on the left, the spleen on the right, a region named left or right on the other side."""
    for name, right in (facts.anatomy.right if facts.anatomy else {}).items():
        if _side(name) * right < -0.1:
            side = "left" if _side(name) > 0 else "right"
            yield f"{name} lies on the patient's {side}: the image is mirrored, or its affine is"


@check_case("back-to-front", "warning", BELIEVED, MEND)
def back_to_front(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """Kidneys, or the bones, in the front of the body."""
    if facts.anatomy is None:
        return
    places = {name: front for name, front in facts.anatomy.front.items() if "kidney" in name.lower()}
    if facts.anatomy.bones_front is not None:
        places["bone"] = facts.anatomy.bones_front
    for name, front in places.items():
        if front > 0.15:
            yield f"{name} lies in the front of the body: the rows run the other way, or it is no {name}"
            return


@check_case("feet-first", "warning", BELIEVED, MEND)
def feet_first(facts: CaseFacts, _: DataSet) -> Iterator[str]:
    """The lungs at the lower end of the image."""
    if facts.anatomy is not None and facts.anatomy.lungs_ml is not None:
        lower_ml, upper_ml = facts.anatomy.lungs_ml
        if lower_ml > 350 and lower_ml > 4 * upper_ml:
            yield f"{lower_ml:.0f} ml of air in the body's lower third, {upper_ml:.0f} ml in the upper: upside down"
