"""Cases beside each other: copies, one patient under two names, patients of another data set."""

from collections import Counter, defaultdict
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path

from hlfd.doctor.facts import CaseFacts
from hlfd.doctor.registry import WHOLE, DataSet, Found, check

APART = "a split with the same scan in two parts is refused; else both are kept"
NAMES = "patients are split by their names, so one can come into training and test"
JOIN = "source.patient_of puts cases under one patient; split.file"


@check("duplicate-image", "error", APART, JOIN)
def duplicate_image(data: DataSet) -> Found:
    """One image under two patients."""
    for first, second in _copies(data):
        if data.patient[first] != data.patient[second]:
            yield second, f"the same image as {first}, under another patient"


@check("duplicate-case", "warning", "both are kept: the image counts twice", "take one out")
def duplicate_case(data: DataSet) -> Found:
    """One image twice, of one patient."""
    for first, second in _copies(data):
        if data.patient[first] == data.patient[second]:
            yield second, f"the same image as {first}, of the same patient"


@check("same-patient", "warning", NAMES, JOIN)
def same_patient(data: DataSet) -> Found:
    """Two images that share half of their slices, or more, under two patients."""
    copies = set(_copies(data))
    for one, other, shared in _sharing(data.cases, data.cases):
        pair = one.case.id, other.case.id
        if pair not in copies and one.case.patient != other.case.patient:
            yield pair[1], f"{shared} slices are the same as of {pair[0]}: one patient under two names"


@check("shared-patient", "warning", "nothing: data sets are not compared otherwise", "split.file leaves patients out")
def shared_patient(data: DataSet) -> Found:
    """Images, or half of their slices, that are in the data set given as --against too."""
    if data.other is None:
        return
    for one, other, shared in _sharing(data.other.cases, data.cases):
        yield other.case.id, f"{shared} slices are the same as of {one.case.id} in {data.other.root}"


@check("ircadb", "note", "nothing", "split.file; don't train on the one and test on the other")
def ircadb(data: DataSet) -> Found:
    """LiTS volumes 28 to 47 are the patients of 3D-IRCADb-01."""
    numbers = {f"volume-{n}" for n in range(28, 48)}
    found = [facts.case.id for facts in data.cases if facts.case.id in numbers]
    if data.source == "lits" and found:
        yield WHOLE, f"{len(found)} cases of volume-28 to volume-47, which are the patients of 3D-IRCADb-01"


def _copies(data: DataSet) -> list[tuple[str, str]]:
    """Pairs (first, later) of cases with one image: by its digest, or without ``deep`` by the files' bytes."""
    groups: dict[str, list[str]] = defaultdict(list)
    if data.deep:
        for facts in data.cases:
            if facts.values is not None and facts.values.digest:
                groups[facts.values.digest].append(facts.case.id)
    else:
        users = Counter(path for facts in data.cases for path in facts.case.image)  # a zip may hold several cases
        own = [facts.case for facts in data.cases if all(users[p] == 1 and p.is_file() for p in facts.case.image)]
        files = {case.id: case.image for case in own}
        sizes: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for case, paths in files.items():
            sizes[tuple(path.stat().st_size for path in paths)].append(case)
        for cases in sizes.values():
            for case in cases if len(cases) > 1 else ():
                groups[_bytes(files[case])].append(case)
    return [(cases[0], later) for cases in groups.values() for later in cases[1:]]


def _bytes(paths: Iterable[Path]) -> str:
    found = blake2b(digest_size=16)
    for path in paths:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                found.update(piece)
    return found.hexdigest()


def _sharing(some: Iterable[CaseFacts], others: Iterable[CaseFacts]) -> list[tuple[CaseFacts, CaseFacts, int]]:
    """Pairs of cases that have at least half of the shorter one's axial slices, and 3, in common."""
    some, others = ([f for f in facts if f.values is not None] for facts in (some, others))
    holders: dict[str, list[int]] = defaultdict(list)
    for index, facts in enumerate(some):
        for digest in facts.values.slices if facts.values else ():
            holders[digest].append(index)
    found: list[tuple[CaseFacts, CaseFacts, int]] = []
    for later, facts in enumerate(others):
        shared: dict[int, int] = defaultdict(int)
        for digest in facts.values.slices if facts.values else ():
            for index in holders.get(digest, ()):
                shared[index] += 1
        for index, count in sorted(shared.items()):
            one = some[index]
            assert one.values and facts.values
            if one is facts or (some == others and index > later):
                continue
            if count >= max(3, 0.5 * min(len(one.values.slices), len(facts.values.slices))):
                found.append((one, facts, count))
    return found
