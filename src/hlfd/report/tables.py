"""The numbers of the report as text: units, intervals, ratios to the teacher, and which value is best."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

DASH = "–"
TEACHER = "teacher"
Model = Mapping[str, Any]
Better = Literal["high", "low", "zero"]
Verdicts = Mapping[tuple[str, str, str], str]


@dataclass(frozen=True)
class Cell:
    """One value of a table.

    Attributes:
        text: the value.
        notes: small lines below it.
        best: whether no model but the teacher has a better one.
        bar: (low, mean, high) within [0, 1] to draw, low and high equal to the mean where there is no interval.
        change: against the baseline, with its sign; "" if there is none.
        gain: whether the change is an improvement (None: neither).
    """

    text: str
    notes: tuple[str, ...] = ()
    best: bool = False
    bar: tuple[float, float, float] | None = None
    change: str = ""
    gain: bool | None = None


@dataclass(frozen=True)
class Table:
    """Headers (title, unit or hint) and per model (name, cells)."""

    headers: tuple[tuple[str, str], ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def number(value: object) -> float | None:
    """A finite number, or None for anything that has none to show."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def short(value: float | None, digits: int = 3) -> str:
    """``1960000`` as ``1.96 M``: significant digits and a thousands prefix."""
    if value is None:
        return DASH
    size = abs(float(f"{value:.{digits}g}"))
    for limit, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{_digits(value / limit, digits)} {prefix}"
    return _digits(value, digits)


def fixed(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A fixed number of decimals, a true minus sign, never ``-0.000``."""
    if value is None:
        return DASH
    value = round(value, digits) or 0.0
    return f"{value:{'+' if signed and value else ''}.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as seconds, minutes or hours."""
    if seconds is None:
        return DASH
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def ratio(teacher: float | None, value: float | None, less: str, more: str) -> str:
    """``11x fewer than the teacher`` without the last three words; "" where there is nothing to compare."""
    if not teacher or not value or teacher <= 0 or value <= 0:
        return ""
    factor, word = (teacher / value, less) if value <= teacher else (value / teacher, more)
    return f"{_digits(factor, 2)}× {word}" if factor >= 1.05 else "as the teacher"


def labels_of(models: Sequence[Model]) -> list[str]:
    """Every region any model was judged on, in order of first appearance."""
    return list(dict.fromkeys(label for model in models for label in model.get("labels") or {}))


def summary_of(model: Model, label: str, metric: str) -> Mapping[str, Any]:
    """A model's `Summary` of one metric as a dict, empty where it has none."""
    return ((model.get("labels") or {}).get(label) or {}).get(metric) or {}


def baseline_of(models: Sequence[Model]) -> Model | None:
    """The student without distillation: the first model but the teacher whose method is ``seg``."""
    return next((m for m in models if m["name"] != TEACHER and m.get("method") == "seg"), None)


def verdicts(results: Mapping[str, Any]) -> Verdicts:
    """(model, the one it is compared with, region) -> ``better``, ``worse``, ``none`` or ``refused``."""
    return {(c["name"], c["minus"], c["region"]): c["verdict"] for c in results.get("comparisons") or ()}


_VERDICTS = {"none": "no difference", "refused": "no claim"}


def remarks(models: Sequence[Model]) -> list[str]:
    """A sentence for every model whose training diverged."""
    found: list[str] = []
    for model in models:
        seeds = model.get("nan_seeds") or ()
        if seeds:
            named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            found.append(f"{model['name']} gave NaN with {named}: its training diverged; NaN counts as background.")
    return found


def comparison_tables(results: Mapping[str, Any]) -> list[tuple[str, Table]]:
    """Region -> a row a comparison: difference with its interval, p after Holm, effect sizes, seed by seed."""
    headers = (
        ("Difference", "Dice, 95 % over patients"),
        ("p", "Wilcoxon, after Holm"),
        ("Effect", "Cohen's d"),
        ("Rank-biserial", "-1 to 1"),
        ("Seeds", "difference of each"),
        ("Shown", ""),
    )
    rows: dict[str, list[tuple[str, tuple[Cell, ...]]]] = {}
    for found in results.get("comparisons") or ():
        low, high, p = (number(found[key]) for key in ("low", "high", "p_holm"))
        ends = () if low is None or high is None else (f"{fixed(low, signed=True)} to {fixed(high, signed=True)}",)
        cells = (
            Cell(fixed(number(found["difference"]), signed=True), ends),
            Cell("< 0.001" if p is not None and p < 0.001 else fixed(p)),
            Cell(fixed(number(found["effect"]), 2, signed=True)),
            Cell(fixed(number(found["rank_biserial"]), 2, signed=True)),
            Cell(", ".join(fixed(number(value), signed=True) for value in found.get("by_seed") or ()) or DASH),
            Cell(_VERDICTS.get(found["verdict"], str(found["verdict"]))),
        )
        rows.setdefault(found["region"], []).append((f"{found['name']} − {found['minus']}", cells))
    return [(region, Table(headers, tuple(lines))) for region, lines in rows.items()]


def summary_table(models: Sequence[Model], shown: Verdicts | None = None) -> Table:
    """Dice of every label with its interval and its change against the student alone, then what the model costs.

    Args:
        shown: see `verdicts`; a change that is not shown to be better or worse has no colour.
    """
    headers: list[tuple[str, str]] = []
    columns: list[list[Cell]] = []
    for label in labels_of(models):
        headers.append((f"{label} Dice", "mean, 95 % interval"))
        columns.append(_metric_column(models, label, "dice", "high", fixed, bar=True, shown=shown))
    for key, title, hint, less, more in (
        ("parameters", "Parameters", "", "fewer", "more"),
        ("multiply_adds", "Multiply-adds", "per slice", "fewer", "more"),
        ("ms_per_slice", "Time", "ms per slice", "faster", "slower"),
        ("file_mib", "File", "MiB", "smaller", "larger"),
        ("peak_mib", "Memory", "MiB, peak", "less", "more"),
    ):
        headers.append((title, hint))
        columns.append(_cost_column(models, key, less, more))
    return _table(models, headers, columns)


def detail_table(models: Sequence[Model], label: str) -> Table:
    """Median Dice, VOE, RVD and |RVD| of one label, and over how many patients."""
    headers = [("Dice", "median"), ("VOE", "lower is better"), ("RVD", "0 is best"), ("|RVD|", "lower is better")]
    columns = [
        _metric_column(models, label, "dice", "high", fixed, field="median"),
        _metric_column(models, label, "voe", "low", fixed),
        _metric_column(models, label, "rvd", "zero", lambda v: fixed(v, signed=True)),
        _metric_column(models, label, "abs_rvd", "low", fixed),
    ]
    patients: list[Cell] = []
    for model in models:
        dice, rvd = summary_of(model, label, "dice"), summary_of(model, label, "rvd")
        undefined = number(rvd.get("undefined"))
        note = (f"RVD undefined in {undefined:.0f}",) if undefined else ()
        patients.append(Cell(fixed(number(dice.get("patients")), 0), note))
        missed = (model.get("missed") or {}).get(label)
        if missed:  # RVD is -1 there, better than that of a tumour found three times too large
            for column in columns[2:]:
                cell = column[len(patients) - 1]
                told = f"{missed} of {model['tests']} missed"
                column[len(patients) - 1] = replace(cell, notes=(*cell.notes, told))
    return _table(models, [*headers, ("Patients", "")], [*columns, patients])


def _metric_column(
    models: Sequence[Model],
    label: str,
    metric: str,
    better: Better,
    show: Callable[[float | None], str],
    *,
    field: str = "mean",
    bar: bool = False,
    shown: Verdicts | None = None,
) -> list[Cell]:
    summaries = [summary_of(model, label, metric) for model in models]
    values = [number(s.get(field)) for s in summaries]
    best = _best(models, values, better, show)
    named = {str(model["name"]): model for model in models}
    cells: list[Cell] = []
    for model, summary, value, is_best in zip(models, summaries, values, best, strict=True):
        low, high = number(summary.get("low")), number(summary.get("high"))
        interval = (f"{show(low)} to {show(high)}",) if field == "mean" and low is not None and high is not None else ()
        baseline = named.get(str(model.get("alone"))) or baseline_of(models)
        base = number(summary_of(baseline, label, metric).get(field)) if baseline and bar else None
        change, gain = "", None
        if base is not None and value is not None and model["name"] != TEACHER and model is not baseline:
            change = fixed(value - base, signed=True)
            verdict = (shown or {}).get((str(model["name"]), str(baseline["name"]), label)) if baseline else None
            gain = {"better": True, "worse": False}.get(verdict or "")
        ends = None
        if bar and value is not None:
            ends = (value if low is None else low, value, value if high is None else high)
        cells.append(Cell(show(value), interval, is_best, ends, change, gain))
    return cells


def _cost_column(models: Sequence[Model], key: str, less: str, more: str) -> list[Cell]:
    values = [number(model.get(key)) for model in models]
    best = _cheapest(models, values)
    teacher = next((v for m, v in zip(models, values, strict=True) if m["name"] == TEACHER), None)
    cells: list[Cell] = []
    for model, value, is_best in zip(models, values, best, strict=True):
        note = ratio(teacher, value, less, more) if model["name"] != TEACHER else ""
        cells.append(Cell(short(value), (note,) if note else (), is_best))
    return cells


def _best(
    models: Sequence[Model], values: Sequence[float | None], better: Better, show: Callable[[float | None], str]
) -> list[bool]:
    """Which values to emphasise: the best but the teacher's, and those that read the same; none if they all do."""
    given = {i: v for i, v in enumerate(values) if v is not None and models[i]["name"] != TEACHER}
    if len({show(v) for v in given.values()}) < 2:
        return [False] * len(values)
    text = show(max(given.values()) if better == "high" else min(given.values(), key=abs if better == "zero" else None))
    return [i in given and show(v) == text for i, v in enumerate(values)]


def _cheapest(models: Sequence[Model], values: Sequence[float | None]) -> list[bool]:
    """Which costs to emphasise. A cost is the network's, not the method's: two timings of one network don't compete."""
    networks = [(m.get("network") or m["name"], m.get("parameters")) for m in models]
    given = {i: v for i, v in enumerate(values) if v is not None and models[i]["name"] != TEACHER}
    if len({short(v) for v in given.values()}) < 2 or len({networks[i] for i in given}) < 2:
        return [False] * len(values)
    winner = networks[min(given, key=lambda i: given[i])]
    return [i in given and networks[i] == winner for i in range(len(values))]


def _table(models: Sequence[Model], headers: Sequence[tuple[str, str]], columns: Sequence[Sequence[Cell]]) -> Table:
    rows = zip((str(m["name"]) for m in models), zip(*columns, strict=True), strict=True)
    return Table(tuple(headers), tuple(rows))


def _digits(value: float, digits: int) -> str:
    """Significant digits without an exponent: 12.3, 0.0457, 1234."""
    rounded = float(f"{value:.{digits}g}")
    if not rounded:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return f"{rounded:.{decimals}f}"
