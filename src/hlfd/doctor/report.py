"""Findings, as objects and as JSON."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hlfd.doctor.anatomy import axes
from hlfd.doctor.checks import CHECKS
from hlfd.doctor.facts import CaseFacts
from hlfd.doctor.registry import SEVERITIES, WHOLE, DataSet, Severity

VERSION = 1


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        severity: ``error``, ``warning`` or ``note``.
        code: of the check.
        case: its id; None: the data set as a whole.
        text: what was found; paths are relative to the root.
        by_default: what is done about it.
        option: what changes that, None if nothing does.
    """

    severity: Severity
    code: str
    case: str | None
    text: str
    by_default: str
    option: str | None


@dataclass(frozen=True)
class Report:
    """What a check found, worst first."""

    data: DataSet
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        """How many findings are that severe."""
        return sum(finding.severity == severity for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """As JSON that fits `SCHEMA`."""
        data = self.data
        return {
            "version": VERSION,
            "root": str(data.root),
            "source": data.source,
            "deep": data.deep,
            "against": None if data.other is None else str(data.other.root),
            "counts": {severity: self.count(severity) for severity in SEVERITIES},
            "findings": [asdict(finding) for finding in self.findings],
            "cases": [_summary(facts) for facts in data.cases],
        }


def judge(data: DataSet) -> Report:
    """Apply every check."""
    found: list[Finding] = []
    for check in CHECKS:
        by_default, option = check.remedy(data.source)
        for case, text in check.find(data):
            plain = " ".join(text.replace(f"{data.root}/", "").split())
            found.append(
                Finding(check.severity, check.code, None if case == WHOLE else case, plain, by_default, option or None)
            )
    return Report(data, tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))))


def _summary(facts: CaseFacts) -> dict[str, Any]:
    header, values = facts.image, facts.values
    grid = header or facts.grid or values
    return {
        "case": facts.case.id,
        "patient": facts.case.patient,
        "labelled": facts.case.label is not None,
        "shape": None if grid is None else list(grid.shape),
        "spacing_mm": None if grid is None else np.linalg.norm(grid.affine[:3, :3], axis=0).round(6).tolist(),
        "axes": None if grid is None else axes(grid.affine),
        "stored_as": None if header is None else str(header.dtype),
        "hu": None
        if values is None
        else {
            "minimum": values.minimum,
            "maximum": values.maximum,
            "percentiles": {str(p): values.percentile(p) for p in (0.5, 50, 99.5)},
        },
        "label_voxels": None if facts.counts is None else {f"{v:g}": n for v, n in facts.counts.counts.items()},
    }


def _object(required: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": required, "additionalProperties": False}


def _or_null(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": [kind, "null"], **more}


def _listed(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


_TEXT, _NUMBER, _COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "hlfd check",
    **_object(
        {
            "version": {"const": VERSION},
            "root": _TEXT,
            "source": _TEXT,
            "deep": {"type": "boolean"},
            "against": _or_null("string"),
            "counts": _object(dict.fromkeys(SEVERITIES, _COUNT)),
            "findings": _listed(
                _object(
                    {
                        "severity": {"enum": list(SEVERITIES)},
                        "code": _TEXT,
                        "case": _or_null("string"),
                        "text": _TEXT,
                        "by_default": _TEXT,
                        "option": _or_null("string"),
                    }
                )
            ),
            "cases": _listed(
                _object(
                    {
                        "case": _TEXT,
                        "patient": _TEXT,
                        "labelled": {"type": "boolean"},
                        "shape": _or_null("array", items=_COUNT),
                        "spacing_mm": _or_null("array", items=_or_null("number")),
                        "axes": _or_null("string"),
                        "stored_as": _or_null("string"),
                        "hu": _or_null(
                            "object",
                            required=["minimum", "maximum", "percentiles"],
                            properties={
                                "minimum": _or_null("number"),
                                "maximum": _or_null("number"),
                                "percentiles": {"type": "object", "additionalProperties": _NUMBER},
                            },
                        ),
                        "label_voxels": _or_null("object", additionalProperties=_COUNT),
                    }
                )
            ),
        }
    ),
}
"""JSON schema of `Report.document`; ``version`` rises when something in it changes its meaning."""
