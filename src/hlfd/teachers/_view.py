"""How a teacher sees the student's image, computed from what is known of both."""

from collections.abc import Mapping, Sequence

from hlfd.data.preprocess import Preprocess
from hlfd.distill.frozen import View
from hlfd.distill.pretrained import Pretrained
from hlfd.errors import InputError, nearest
from hlfd.labels import Labels
from hlfd.teachers._foreign import Foreign, deepest

BACKGROUND = "background"
TOLERANCE_HU = 1.0
STRETCH = 0.1
"""How much larger or smaller than at its own pixel size a teacher may see the image, so that it fits its strides."""


def view(
    teacher: Pretrained,
    student: Preprocess,
    labels: Labels,
    *,
    dims: int,
    size: tuple[int, ...] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    where: str,
) -> View:
    """How ``teacher`` sees the images of a student with this preprocessing, these labels and ``dims`` spatial axes.

    Args:
        size: the spatial size the teacher is to see the image at, whatever is known of pixel sizes; None: computed.
        classes: student's class -> the teacher's classes it is made of. What is not listed is background, unless
            ``background`` is listed too. None: the names are the same.
        where: what a message starts with: the teacher's folder, or its place in the recipe.

    Raises:
        InputError: HU that the student's window cuts off and the teacher needs; a size that can't be known or doesn't
            fit the teacher's strides; another field of view; a 3D teacher for a 2D student; classes that don't match;
            several channels.
    """
    try:
        mine, its = student.channels, teacher.tapped.in_channels
        if its > mine or (mine - its) % 2:
            raise InputError(f"the teacher's images have {its} channels, the student's have {mine}")
        if teacher.tapped.dims > dims:
            raise InputError(
                "a 3D teacher needs the neighbouring slices; a 2D student's batch has single ones: take a 2D teacher"
            )
        apart_mm = (teacher.slice_mm, student.slice_mm)
        if teacher.tapped.dims == 3 and None not in apart_mm and apart_mm[0] != apart_mm[1]:
            raise InputError(
                f"the teacher's slices are {apart_mm[0]:g} mm apart, the student's {apart_mm[1]:g} mm: set "
                f"preprocess.slice_mm to {apart_mm[0]:g}"
            )
        low, high, scale, shift = _intensity(teacher, student)
        return View(
            low=low,
            high=high,
            scale=scale,
            shift=shift,
            size=_stated(teacher, size) if size is not None else _size(teacher, student),
            classes=_classes(teacher.names, labels.names, classes),
            slices=teacher.tapped.dims < dims,
            channels=None if its == mine else ((mine - its) // 2, (mine + its) // 2),
        )
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def _intensity(teacher: Pretrained, student: Preprocess) -> tuple[float, float, float, float]:
    """Clip and linear map from the student's [-1, 1] to what the teacher knows."""
    low, high = student.window_hu
    wanted = teacher.intensity
    if wanted.low_hu < low - TOLERANCE_HU or wanted.high_hu > high + TOLERANCE_HU:
        wider = f"[{min(low, wanted.low_hu):g}, {max(high, wanted.high_hu):g}]"
        raise InputError(
            f"the teacher tells HU from {wanted.low_hu:g} to {wanted.high_hu:g} apart, and the student's window cuts "
            f"them to {low:g} to {high:g}: set preprocess.window_hu to {wider}"
        )

    def units(hu: float) -> float:
        return (hu - low) * 2 / (high - low) - 1

    return (
        units(wanted.low_hu) if wanted.low_hu > low else -float("inf"),
        units(wanted.high_hu) if wanted.high_hu < high else float("inf"),
        (high - low) / (2 * wanted.scale_hu),
        ((high + low) / 2 - wanted.center_hu) / wanted.scale_hu,
    )


def _size(teacher: Pretrained, student: Preprocess) -> tuple[int, ...] | None:
    """The size at which the teacher sees the student's image, None: as it is."""
    both = f"the teacher has {_grid(teacher)}, the student {_grid(student)}"
    anywhere = isinstance(teacher.tapped, Foreign)  # was trained on patches, knows any part of a slice
    seen = student.part or student.size
    same = (teacher.spacing_mm, teacher.size, teacher.crop) == (student.spacing_mm, student.size, student.part)
    if same or (teacher.spacing_mm is None and teacher.size is None and teacher.crop is None):
        return _fitting(teacher, seen, 1.0, both) if seen and anywhere else None
    if teacher.size is not None and student.size is not None:
        known = teacher.crop or teacher.size
        shares = [
            (mine / whole, other / its_whole)
            for mine, whole, other, its_whole in zip(
                student.part or student.size, student.size, known, teacher.size, strict=True
            )
        ]
        if any(abs(mine - other) > 0.01 for mine, other in shares):
            raise InputError(f"{both}: they see different parts of the slice, set preprocess.crop to the same share")
        return _in_3d(teacher, known, both)
    if teacher.spacing_mm is not None and student.spacing_mm is not None:
        ratio = student.spacing_mm / teacher.spacing_mm
        if teacher.crop is not None:
            if student.part is None or any(
                abs(mine * ratio - its) > 0.01 * its for mine, its in zip(student.part, teacher.crop, strict=True)
            ):
                raise InputError(f"{both}: they see different parts of the slice, {_as_large(teacher, student)}")
            return None if teacher.crop == student.part else _in_3d(teacher, teacher.crop, both)
        if not anywhere and student.part is not None:
            raise InputError(f"{both}: the teacher knows whole slices; leave out the crop, or state the teacher's size")
        if student.part is not None:
            return _fitting(teacher, student.part, ratio, both)
        if ratio == 1:
            return None
        raise InputError(f"{both}: without a crop the number of pixels isn't known: set preprocess.crop")
    raise InputError(f"{both}: how they compare isn't known: state the size at which the teacher sees the image")


def _fitting(teacher: Pretrained, pixels: tuple[int, int], ratio: float, both: str) -> tuple[int, ...] | None:
    """``pixels`` times ``ratio``, rounded to what the teacher's strides divide; None: ``pixels`` are just that."""
    multiples = _multiples(teacher)[-2:]
    wanted = [n * ratio for n in pixels]
    rounded = [max(round(n / m), 1) * m for n, m in zip(wanted, multiples, strict=True)]
    if any(abs(r / w - 1) > STRETCH for r, w in zip(rounded, wanted, strict=True)):
        shown = " x ".join(f"{w:.0f}" for w in wanted)
        raise InputError(
            f"{both}: the teacher would see {shown} pixels and needs multiples of {' and '.join(map(str, multiples))}; "
            f"{' x '.join(map(str, rounded))} would distort the image: set another preprocess.crop, or state the size"
        )
    fitting = (rounded[0], rounded[1])
    return None if fitting == pixels else _in_3d(teacher, fitting, both)


def _in_3d(teacher: Pretrained, plane: tuple[int, int], both: str) -> tuple[int, ...]:
    if teacher.tapped.dims == 3:
        shown = f"[SLICES, {plane[0]}, {plane[1]}]"
        raise InputError(f"{both}: how many slices it sees isn't known, state the teacher's size: {shown}")
    return plane


def _stated(teacher: Pretrained, size: tuple[int, ...]) -> tuple[int, ...]:
    multiples = _multiples(teacher)
    if len(size) != len(multiples) or any(n < 1 or n % m for n, m in zip(size, multiples, strict=False)):
        expected = ", ".join(f"a multiple of {m}" for m in multiples)
        raise InputError(f"size: expected [{expected}], which the teacher's strides divide, got {list(size)}")
    return tuple(size)


def _multiples(teacher: Pretrained) -> tuple[int, ...]:
    """What the sizes of the teacher's images must be multiples of."""
    tapped = teacher.tapped
    if isinstance(tapped, Foreign):
        return tapped.multiples
    return deepest(tapped)


def _grid(of: Pretrained | Preprocess) -> str:
    """Pixel size, size and crop, for a message."""
    part = of.part if isinstance(of, Preprocess) else of.crop
    known = [
        f"{name} {shown}"
        for name, shown in (
            ("pixels of", of.spacing_mm and f"{of.spacing_mm:g} mm"),
            ("slices resized to", of.size and f"{of.size[0]} x {of.size[1]}"),
            ("a crop of", part and f"{part[0]} x {part[1]}"),
        )
        if shown
    ]
    return " and ".join(known) or "the image's own grid"


def _as_large(teacher: Pretrained, student: Preprocess) -> str:
    assert teacher.crop and teacher.spacing_mm and student.spacing_mm
    pixels = [round(n * teacher.spacing_mm / student.spacing_mm) for n in teacher.crop]
    return f"set preprocess.crop to {pixels}"


def _classes(
    theirs: tuple[str, ...], ours: tuple[str, ...], given: Mapping[str, Sequence[str]] | None
) -> tuple[tuple[int, ...], ...] | None:
    """For each of the student's classes, background first, the teacher's that it is made of; None: the same."""
    index = {BACKGROUND: 0, **{name: i for i, name in enumerate(theirs, 1)}}
    if given is None:
        if sorted(theirs) != sorted(ours):
            raise InputError(_proposal(theirs, ours))
        given = {name: [name] for name in ours}
    given = {name: [parts] if isinstance(parts, str) else list(parts) for name, parts in given.items()}
    for name in given:
        if name not in (BACKGROUND, *ours):
            raise InputError(f"classes: the student has no class '{name}'{nearest(name, ours)}")
    used: dict[str, str] = {BACKGROUND: BACKGROUND}
    for name in ours:
        if not given.get(name):
            raise InputError(f"classes: '{name}' of the student is made of none of the teacher's classes")
    for name, parts in given.items():
        for part in parts:
            if part not in index:
                raise InputError(f"classes.{name}: the teacher has no class '{part}'{nearest(part, index)}")
            if part in used and (part != BACKGROUND or name != BACKGROUND):
                raise InputError(f"classes: the teacher's '{part}' is part of '{used[part]}' and of '{name}'")
            used[part] = name
    rest = [name for name in theirs if name not in used]
    if rest and BACKGROUND in given:
        raise InputError(f"classes: {', '.join(rest)} of the teacher belongs to no class of the student")
    members = [tuple(sorted(i for part, i in index.items() if used.get(part, BACKGROUND) == BACKGROUND))]
    members += [tuple(sorted(index[part] for part in given[name])) for name in ours]
    return None if members == [(i,) for i in range(len(index))] else tuple(members)


def _proposal(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    both = f"the teacher's classes are {', '.join(theirs)}, the student's {', '.join(ours)}"
    if not set(ours) <= set(theirs):
        example = ", ".join(f"{name}: [...]" for name in ours)
        return f"{both}: say which of the teacher's make up each of the student's, classes: {{{example}}}"
    rest = ", ".join(name for name in theirs if name not in ours)
    same = ", ".join(f"{name}: [{name}]" for name in ours)
    return f"{both}: write classes: {{{same}}} if {rest} is background to the student, or add it where it belongs"
