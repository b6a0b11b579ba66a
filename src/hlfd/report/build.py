"""A report as one HTML file that loads nothing from elsewhere; without volumes to scroll through, without scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hlfd.errors import InputError
from hlfd.io.files import write_atomic
from hlfd.report import charts, figures, pictures, speed, tables, viewer
from hlfd.report.arrows import who_teaches_whom
from hlfd.report.gradients import pull_tables
from hlfd.report.model import ImportancePicture, PatientPicture, ReportData
from hlfd.report.tables import DASH, TEACHER, Model, fixed, number


@dataclass(frozen=True)
class Tile:
    """One figure of the headline: what it is of, its value, how it came about."""

    name: str
    value: str
    note: str


@dataclass(frozen=True)
class Speed:
    """A benchmark: its chart, its table, and where it was measured."""

    svg: Markup
    table: tables.Table
    said: str


@dataclass(frozen=True)
class Card:
    """One model's pictures of a patient; ``slot`` is None for the reference."""

    name: str
    slot: int | None
    scores: tuple[tuple[str, str], ...]
    close: str
    close_alt: str
    wide: str
    wide_alt: str


@dataclass(frozen=True)
class Grid:
    """Importance maps of a patient: per role (role, [(image, alt)] by model)."""

    patient: str
    models: tuple[str, ...]
    rows: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


def render(data: ReportData) -> str:
    """The report's HTML.

    Raises:
        InputError: if the results name no model or one model twice, or a picture's arrays differ in shape.
    """
    models = _models(data)
    pictured = [*(n for p in data.patients for n in p.predictions), *(n for i in data.importance for n in i.maps)]
    slots = figures.model_slots(models, [*data.curves, *pictured])
    labels = tables.labels_of(models)
    regions = data.regions or _regions(labels, data)
    columns = list(dict.fromkeys(column for of_model in data.curves.values() for column in of_model))
    # Every model has a segmentation loss: it stands beside the validation scores, in their size.
    large = [c for c in columns if c.startswith("val/")] + [c for c in columns if c == "loss/seg"]
    small = [c for c in columns if c.startswith("loss/") and c not in large]
    shown = tables.verdicts(data.results)
    environment = Environment(
        loader=PackageLoader("hlfd.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("template.html.j2").render(
        data=data,
        paragraphs=[p.strip() for p in data.intro.split("\n\n") if p.strip()],
        models={m["name"]: _described(m) for m in models},
        slots=slots,
        tiles=_tiles(models, labels, shown),
        summary=tables.summary_table(models, shown),
        comparisons=tables.comparison_tables(data.results),
        details=[(label, tables.detail_table(models, label)) for label in labels],
        baseline=(tables.baseline_of(models) or {}).get("name"),
        seeds=sorted({seed for m in models for seed in m.get("seeds") or [m.get("seed")] if seed is not None}),
        findings=data.findings,
        remarks=tables.remarks(models),
        spread=_spread(data, models),
        scatters=charts.scatters(models, labels, slots),
        speed=_speed(data, slots),
        curves=charts.curves(data, slots, large),
        losses=charts.curves(data, slots, small, small=True),
        lessons=_lessons(data),
        pulls=pull_tables(data.curves),
        pull_charts=charts.pulls(data, slots),
        paired=charts.paired(data, slots),
        volumes=charts.volumes(data, slots),
        lesions=charts.lesions(data, slots),
        reliability=charts.reliability(data, slots),
        calibration=[
            (name, fixed(found.ece)) for name, found in data.calibration.items() if number(found.ece) is not None
        ],
        attention=_attention(data),
        viewer=viewer.embedded(data.viewer, regions),
        patients=[(picture, _cards(picture, regions, slots)) for picture in data.patients],
        importance=[_grid(picture, regions) for picture in data.importance],
        target=list(regions)[-1] if regions else "reference",
        regions=list(zip(regions, pictures.REGION_COLOURS * 3, strict=False)),
        facts=_facts(data),
    )


def write_report(data: ReportData, path: str | Path) -> Path:
    """Write the report to ``path``, whole or not at all, and return the path."""
    return write_atomic(path, render(data))


def _models(data: ReportData) -> list[Model]:
    models: list[Model] = list(data.results.get("models") or [])
    names = [model.get("name") for model in models]
    if not models or None in names or len(set(names)) < len(names):
        raise InputError(f"report: expected results of at least one model, each with its own name, got {names}")
    return models


def _regions(labels: Sequence[str], data: ReportData) -> dict[str, tuple[int, ...]]:
    """The regions of `organ_and_tumor`: the first holds every class, each further one is a class of its own."""
    drawn = [a for p in data.patients for a in (p.reference, *p.predictions.values())]
    drawn += [p.reference for p in data.importance]
    classes = max([len(labels), *(int(a.max()) for a in drawn)], default=1)
    return {name: tuple(range(1, classes + 1)) if i == 0 else (i + 1,) for i, name in enumerate(labels)}


def _described(model: Model) -> str:
    """The small line below a model's name."""
    parts = [str(model[key]) for key in ("network", "method") if model.get(key)]
    if model.get("seed") is not None:
        seeds: list[object] = model.get("seeds") or []
        parts.append(f"{len(seeds)} seeds" if len(seeds) > 1 else f"seed {model['seed']}")
    seconds = number(model.get("train_seconds"))
    return " · ".join([*parts, *([f"trained {tables.duration(seconds)}"] if seconds is not None else [])])


def _spread(data: ReportData, models: Sequence[Model]) -> list[tuple[str, tables.Table]]:
    """Region -> a row a model: mean of each seed, spread over seeds and over patients, rank and its interval."""
    found: list[tuple[str, tables.Table]] = []
    for region in dict.fromkeys(region for model in models for region in model.get("seed_means") or {}):
        rows: list[tuple[str, tuple[tables.Cell, ...]]] = []
        for model in models:
            means = (model.get("seed_means") or {}).get(region) or ()
            spread = data.variances.get(region, {}).get(str(model["name"]), {})
            rank = data.ranks.get(region, {}).get(str(model["name"]), {})
            if len(means) < 2 and not rank:
                continue
            deviations = [number(spread.get(key)) for key in ("seed", "patient")]
            places = [number(rank.get(key)) for key in ("rank", "low", "high")]
            rows.append(
                (
                    str(model["name"]),
                    (
                        tables.Cell(", ".join(fixed(number(mean)) for mean in means)),
                        *(tables.Cell(fixed(v**0.5 if v is not None else None)) for v in deviations),
                        tables.Cell(
                            DASH if places[0] is None else f"{places[0]:g}",
                            () if None in places else (f"{places[1]:g} to {places[2]:g}",),
                        ),
                    ),
                )
            )
        if rows and any(len(model.get("seeds") or ()) > 1 for model in models):
            headers = (
                ("Dice", "mean of each seed"),
                ("Seeds", "standard deviation"),
                ("Patients", "standard deviation"),
                ("Rank", "95 % of samples of patients"),
            )
            found.append((region, tables.Table(headers, tuple(rows))))
    return found


def _tiles(models: Sequence[Model], labels: Sequence[str], shown: tables.Verdicts) -> list[Tile]:
    """What distillation changed against the student alone, and what the student costs against the teacher."""
    tiles: list[Tile] = []
    alone = tables.baseline_of(models)
    student = next((m for m in models if m.get("method") == "hlfd" and m["name"] != TEACHER), None)
    teacher = next((m for m in models if m["name"] == TEACHER), None)
    for label in labels:
        if alone is None or student is None:
            break
        before, after = (number(tables.summary_of(m, label, "dice").get("mean")) for m in (alone, student))
        if before is None or after is None:
            continue
        of_teacher = number(tables.summary_of(teacher, label, "dice").get("mean")) if teacher else None
        note = f"{fixed(before)} alone, {fixed(after)} distilled"
        note += f"; teacher {fixed(of_teacher)}" if of_teacher is not None else ""
        said = {"none": "; no difference shown", "refused": "; too few patients for a claim"}
        note += said.get(shown.get((student["name"], alone["name"], label), ""), "")
        tiles.append(Tile(f"{label} Dice with HLFD", fixed(after - before, signed=True), note))
    small = student or alone
    for key, less, more in (("parameters", "fewer", "more"), ("ms_per_slice", "faster", "slower")):
        a, b = (number(m.get(key)) if m else None for m in (teacher, small))
        text = tables.ratio(a, b, less, more)
        if text:
            name, unit = ("Parameters", "") if key == "parameters" else ("Time", " ms per slice")
            tiles.append(Tile(name, text, f"{tables.short(a)}{unit} in the teacher, {tables.short(b)} in the student"))
    return tiles


def _speed(data: ReportData, slots: Mapping[str, int]) -> Speed | None:
    """The benchmark that lies beside the results."""
    found = speed.bars(data.benchmark, slots) if data.benchmark else []
    if not found:
        return None
    machine, volume = data.benchmark["machine"], data.benchmark["volume"]
    threads = max(bar.run["threads"] for bar in found)
    shape = " × ".join(map(str, volume["shape"]))
    said = f"{machine['processor']}, {threads} thread{'s' * (threads > 1)}; volume: {volume['said']}, {shape} voxels"
    return Speed(speed.chart(found), speed.table(found), said)


def _lessons(data: ReportData) -> list[tuple[str, Markup]]:
    """Who teaches whom, a drawing for each model that has terms."""
    return [
        (name, who_teaches_whom(terms, f"Who teaches whom in {name}")) for name, terms in data.terms.items() if terms
    ]


def _cards(picture: PatientPicture, regions: pictures.Regions, slots: Mapping[str, int]) -> list[Card]:
    shape = picture.reference.shape
    if any(a.shape != shape for a in (picture.image, *picture.predictions.values())):
        got = [a.shape for a in (picture.image, *picture.predictions.values())]
        raise InputError(f"report: {picture.patient}: expected pictures of shape {shape}, got {got}")
    predictions = list(picture.predictions.values())
    box = pictures.focus(picture.reference, predictions, regions, picture.spacing_mm)
    field = pictures.body(picture.image, picture.window_hu, picture.spacing_mm)

    def draw(view: pictures.Box, labels: np.ndarray, reference: np.ndarray | None) -> str:
        place = (picture.image, picture.window_hu, picture.spacing_mm, regions, view)
        return pictures.slice_picture(*place, labels=labels, reference=reference, marked=box if view is field else None)

    cards: list[Card] = []
    for name, labels in (("reference", picture.reference), *picture.predictions.items()):
        slot = slots[name] if labels is not picture.reference else None
        given = picture.scores.get(name, {})
        scores = tuple((region, fixed(number(given.get(region)), 2)) for region in regions) if slot is not None else ()
        spoken = f"{picture.rank} patient {picture.patient}, {name}"
        spoken += "".join(f", {region} Dice {text}" for region, text in scores if text != DASH)
        behind = picture.reference if slot is not None else None
        close, wide = draw(box, labels, behind), draw(field, labels, behind)
        cards.append(Card(name, slot, scores, close, f"Enlarged slice of the {spoken}", wide, f"Slice of the {spoken}"))
    return cards


def _grid(picture: ImportancePicture, regions: pictures.Regions) -> Grid:
    if picture.image.shape != picture.reference.shape:
        shapes = f"{picture.image.shape}, got {picture.reference.shape}"
        raise InputError(f"report: {picture.patient}: expected a reference of shape {shapes}")
    roles = dict.fromkeys(role for maps in picture.maps.values() for role in maps)
    target = np.isin(picture.reference, list(regions.values())[-1] if regions else [])
    base = (picture.image, picture.window, picture.spacing_mm)
    rows: list[tuple[str, tuple[tuple[str, str], ...]]] = []
    for role in roles:
        row: list[tuple[str, str]] = []
        for name, maps in picture.maps.items():
            if role in maps:
                uri = pictures.importance_picture(*base, maps[role], target)
                row.append((uri, f"Importance map {role} of {name}, patient {picture.patient}"))
            else:
                row.append(("", ""))
        rows.append((role, tuple(row)))
    return Grid(picture.patient, tuple(picture.maps), tuple(rows))


def _attention(data: ReportData) -> tables.Table | None:
    """The share of each map's mass inside each region, a row a model, first of a map that looks everywhere alike."""
    found = data.attention
    if found is None or not found.shares:
        return None
    maps = list(dict.fromkeys(name for shares in found.shares.values() for name in shares))
    headers = tuple((name, " / ".join(found.area)) for name in maps)

    def cell(shares: Mapping[str, float]) -> tables.Cell:
        return tables.Cell(" / ".join(f"{100 * share:.1f} %" for share in shares.values()) or DASH)

    rows = [(name, tuple(cell(shares.get(m, {})) for m in maps)) for name, shares in found.shares.items()]
    return tables.Table(headers, ((_EVERYWHERE, tuple(cell(found.area) for _ in maps)), *rows))


_EVERYWHERE = "share of the slice"


def _facts(data: ReportData) -> dict[str, str]:
    facts = dict(data.facts)
    versions = data.results.get("versions")
    if isinstance(versions, Mapping) and versions and "versions" not in {key.lower() for key in facts}:
        facts["Versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    seconds = number(data.results.get("seconds"))
    if seconds is not None:
        facts.setdefault("Total time", tables.duration(seconds))
    return facts
