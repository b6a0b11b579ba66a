"""The report's charts: which there are, what they hold and what they are called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from hlfd.evaluation.statistics import mean_interval
from hlfd.report import agreement, figures, tables
from hlfd.report.model import ReportData
from hlfd.report.tables import Model, fixed, number


@dataclass(frozen=True)
class Chart:
    """A figure and what it shows; ``slot`` where it is of one model, whose name the title is."""

    title: str
    svg: Markup
    slot: int | None = None


Slots = Mapping[str, int]


def scatters(models: Sequence[Model], labels: Sequence[str], slots: Slots) -> list[Chart]:
    """Dice of every region against what a model costs."""
    charts: list[Chart] = []
    for label in labels:
        for key, title in (("parameters", "parameters"), ("ms_per_slice", "ms per slice")):
            points: list[figures.Point] = []
            for model in models:
                dice, cost = tables.summary_of(model, label, "dice"), number(model.get(key))
                mean, low, high = (number(dice.get(f)) for f in ("mean", "low", "high"))
                if mean is not None and cost is not None and cost > 0:
                    points.append(figures.Point(str(model["name"]), slots[model["name"]], cost, mean, low, high))
            if len(points) > 1:
                text = f"{label} Dice against {title}"
                spoken = "; ".join(f"{p.name} {fixed(p.quality)} at {tables.short(p.cost)}" for p in points)
                charts.append(Chart(text, figures.scatter(points, f"{text}: {spoken}")))
    return charts


def curves(data: ReportData, slots: Slots, columns: Sequence[str], *, small: bool = False) -> list[Chart]:
    """A chart for every column, holding every model that has it."""
    names = [n for n in slots if n in data.curves]
    charts: list[Chart] = []
    for column in columns:
        lines = [
            figures.Line(name, slots[name], points)
            for name in names
            if figures.worth_drawing(points := data.curves[name].get(column, ()))
        ]
        if lines:
            kind, _, name = column.partition("/")
            kind_text = "Validation" if kind == "val" else "Training loss:"
            title = name if small else f"{kind_text} {name.replace('dice', 'Dice').replace('_', ' ')}, by step"
            spoken = f"{column} over training steps: {', '.join(line.name for line in lines)}"
            charts.append(Chart(title, figures.curves(lines, spoken, small=small, maxima=kind == "val")))
    return charts


def pulls(data: ReportData, slots: Slots) -> list[Chart]:
    """For each model the gradient of its terms over training, each at the tap it teaches."""
    charts: list[Chart] = []
    for name, terms in data.terms.items():
        lines: list[figures.Line] = []
        for term, arrow in terms.items():
            points = data.curves.get(name, {}).get(f"grad/{term}/{arrow.student[0]}", ())
            if figures.worth_drawing(points):
                lines.append(figures.Line(term, (len(lines) + 1) % figures.SLOTS, points))
        if lines:
            spoken = f"Gradient of each term of {name} over training steps: {', '.join(line.name for line in lines)}"
            charts.append(Chart(name, figures.curves(lines, spoken), slots[name]))
    return charts


def paired(data: ReportData, slots: Slots) -> list[Chart]:
    """Each patient's Dice minus that of the student alone, for every other student and the teacher."""
    models: list[Model] = list(data.results["models"])
    baseline = tables.baseline_of(models)
    charts: list[Chart] = []
    for region in next(iter(data.dice.values()), {}):
        rows: list[tuple[str, int, Sequence[float], tuple[float | None, float | None]]] = []
        for model in models:
            name, alone = str(model["name"]), str(model.get("alone") or (baseline or {}).get("name"))
            of_another = not model.get("alone") and not name.startswith(tables.TEACHER)  # itself a student alone
            if of_another or name not in data.dice or alone not in data.dice:
                continue
            theirs = data.dice[alone][region]
            values = [value - theirs[patient] for patient, value in data.dice[name][region].items()]
            interval = mean_interval(values)
            rows.append((name, slots[name], values, (interval.low, interval.high)))
        if rows:
            spoken = "; ".join(f"{name} {fixed(float(np.mean(values)), signed=True)}" for name, _, values, _ in rows)
            title = f"{region} Dice minus that of the student alone"
            charts.append(Chart(title, agreement.differences(rows, f"{title}, patient by patient: {spoken}")))
    return charts


def volumes(data: ReportData, slots: Slots) -> list[tuple[str, list[Chart]]]:
    """Region -> a Bland-Altman chart for each model, all with the same axes."""
    found: list[tuple[str, list[Chart]]] = []
    for region in next(iter(data.volumes_ml.values()), {}):
        pairs = {name: regions[region] for name, regions in data.volumes_ml.items() if regions.get(region)}
        every = np.array([pair for of_model in pairs.values() for pair in of_model], dtype=np.float64).reshape(-1, 2)
        if not every.size or not every.any():
            continue
        ends = [abs(e) for of_model in pairs.values() for e in agreement.limits_of_agreement(np.diff(of_model)[:, 0])]
        most, reach = float(every.mean(1).max()), max(float(np.abs(np.diff(every)).max()), *ends) or 1.0
        charts: list[Chart] = []
        for name, of_model in pairs.items():
            bias, low, high = agreement.limits_of_agreement(np.diff(of_model)[:, 0])
            spoken = f"{region} volume of {name}: bias {bias:+.1f} ml, limits of agreement {low:+.1f} to {high:+.1f} ml"
            charts.append(Chart(name, agreement.bland_altman(slots[name], of_model, spoken, most, reach), slots[name]))
        found.append((region, charts))
    return found


def lesions(data: ReportData, slots: Slots) -> Chart | None:
    """Share of lesions found, by size."""
    if not any(data.lesions.values()):
        return None
    rows = {name: (slots[name], found) for name, found in data.lesions.items()}
    spoken = "; ".join(
        f"{name} {np.mean([hit for _, hit in found]):.2f}" for name, found in data.lesions.items() if found
    )
    return Chart("Lesions found, by diameter", agreement.detection_by_size(rows, f"Share of lesions found: {spoken}"))


def reliability(data: ReportData, slots: Slots) -> Chart | None:
    """How far the probabilities can be believed."""
    models = {name: (slots[name], found) for name, found in data.calibration.items() if sum(found.voxels)}
    if not models:
        return None
    spoken = "; ".join(f"{name} {fixed(found.ece)}" for name, (_, found) in models.items())
    return Chart("Right, against how probable", agreement.reliability(models, f"Expected calibration error: {spoken}"))
