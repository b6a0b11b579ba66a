"""The summary table as LaTeX or Markdown, for a paper or a page."""

from collections.abc import Mapping, Sequence
from typing import Any

from hlfd.errors import InputError, nearest
from hlfd.report.tables import TEACHER, fixed, labels_of, number, remarks, short, summary_of

FORMATS = ("html", "latex", "markdown")
_COSTS = (
    ("parameters", "Parameters"),
    ("multiply_adds", "Multiply-adds"),
    ("ms_per_slice", "ms/slice"),
    ("file_mib", "File, MiB"),
    ("peak_mib", "Memory, MiB"),
)
_SPECIAL = {"\\": r"\textbackslash{}", **{c: f"\\{c}" for c in "&%$#_{}"}, "~": r"\textasciitilde{}", "^": r"\^{}"}


def text_table(results: Mapping[str, Any], form: str) -> str:
    """Dice of every region with its interval, and costs, a row a model; the best but the teacher's in bold.

    Args:
        results: contents of ``results.json``.
        form: ``latex`` (needs ``booktabs``) or ``markdown``.
    """
    if form not in FORMATS[1:]:
        raise InputError(f"--format: expected one of {', '.join(FORMATS)}, got '{form}'{nearest(form, FORMATS)}")
    models: list[Mapping[str, Any]] = list(results["models"])
    regions = labels_of(models)
    costs = [(key, title) for key, title in _COSTS if any(number(model.get(key)) is not None for model in models)]
    latex = form == "latex"
    best = {region: _best(models, region) for region in regions}
    rows: list[list[str]] = []
    for model in models:
        cells = [_escaped(str(model["name"])) if latex else str(model["name"]).replace("|", "\\|")]
        for region in regions:
            dice = summary_of(model, region, "dice")
            mean, low, high = (number(dice.get(key)) for key in ("mean", "low", "high"))
            text = fixed(mean)
            if mean is not None and model["name"] != TEACHER and text == best[region]:
                text = rf"\textbf{{{text}}}" if latex else f"**{text}**"
            cells.append(text + (f" [{fixed(low)}, {fixed(high)}]" if low is not None and high is not None else ""))
        rows.append(cells + [short(number(model.get(key))) for key, _ in costs])
    titles = ["Model", *(f"{region} Dice" for region in regions), *(title for _, title in costs)]
    told = [str(one["sentence"]) for one in results.get("comparisons") or ()] + remarks(models)
    return _latex(titles, rows, told) if latex else _markdown(titles, rows, told)


def _best(models: Sequence[Mapping[str, Any]], region: str) -> str:
    means = [number(summary_of(m, region, "dice").get("mean")) for m in models if m["name"] != TEACHER]
    known = [mean for mean in means if mean is not None]
    return fixed(max(known)) if len({fixed(mean) for mean in known}) > 1 else ""


def _latex(titles: Sequence[str], rows: Sequence[Sequence[str]], told: Sequence[str]) -> str:
    lines = [
        "% Dice: mean over patients with its 95 % bootstrap interval. Needs \\usepackage{booktabs}.",
        *(f"% {sentence}" for sentence in told),
        f"\\begin{{tabular}}{{l{'r' * (len(titles) - 1)}}}",
        "\\toprule",
        " & ".join(_escaped(title) for title in titles) + r" \\",
        "\\midrule",
        *(" & ".join(cells).replace("−", "$-$").replace("–", "--") + r" \\" for cells in rows),
        "\\bottomrule",
        "\\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


def _markdown(titles: Sequence[str], rows: Sequence[Sequence[str]], told: Sequence[str]) -> str:
    head = [f"| {' | '.join(titles)} |", f"|---|{'---:|' * (len(titles) - 1)}"]
    lines = [*head, *(f"| {' | '.join(cells)} |" for cells in rows)]
    note = "Dice: mean over patients with its 95 % bootstrap interval."
    return "\n".join([*lines, "", note, *(["", *(f"- {sentence}" for sentence in told)] if told else [])]) + "\n"


def _escaped(text: str) -> str:
    return "".join(_SPECIAL.get(character, character) for character in text)
