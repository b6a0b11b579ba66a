"""What a report shows, gathered from the run folders."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hlfd.data import views
from hlfd.data.prepare import case_named
from hlfd.data.preprocess import AXCODES
from hlfd.io import nifti
from hlfd.report.arrows import Arrow
from hlfd.report.model import Attention, ImportancePicture, PatientPicture, ReportData, ViewerCase
from hlfd.report.speed import read_benchmark
from hlfd.segmenter import Segmenter
from hlfd.study.attention import attention_maps, mean_shares, share_inside
from hlfd.study.calibration import calibration_of
from hlfd.study.collect import ModelRuns, Run, over_seeds
from hlfd.study.facts import facts_of, intro_of
from hlfd.study.steps import Workspace
from hlfd.study.volumes import viewer_case
from hlfd.training.logs import read_curves
from hlfd.volume import Volume

SIDE_BY_SIDE = 5
"""Models whose maps are drawn; all are in the table of shares."""


def report_data(workspace: Workspace, results: dict[str, Any], runs: Sequence[ModelRuns]) -> ReportData:
    """Everything of a study that its report shows.

    Curves, pictures, volumes and calibration are of the first seed, curves of the first fold. Patients are ranked by
    the mean over the distilled students of the last region's Dice.
    """
    gathered = _Gathered(workspace, runs)
    first = workspace.recipe.folds[0]
    chosen = gathered.chosen(workspace.recipe.report.cases)
    return ReportData(
        title=f"{'Study' if workspace.recipe.study else 'Comparison'}: {workspace.recipe.name}",
        intro=intro_of(workspace, results),
        results=results,
        curves={run.name: read_curves(run.run_of(first).folder / "metrics.csv") for run in runs},
        patients=[gathered.patient(rank, index) for rank, index in chosen],
        importance=gathered.importance([index for _, index in chosen][:1]),
        facts=facts_of(workspace, results),
        regions=workspace.source.labels.regions,
        terms={run.name: _terms(run, first) for run in runs},
        dice={
            run.name: {
                region: {patient: float(np.mean(v)) for patient, v in run.dice(region).items()}
                for region in gathered.regions
            }
            for run in runs
        },
        volumes_ml={
            run.name: {
                region: [(c.regions[region]["reference_ml"], c.regions[region]["prediction_ml"]) for c in run.pictured]
                for region in gathered.regions
            }
            for run in runs
        },
        lesions={run.name: found for run in runs if (found := _lesions(run, gathered.region))},
        calibration={run.name: gathered.calibration(run) for run in runs},
        attention=gathered.attention(),
        viewer=gathered.viewer([index for _, index in chosen]),
        findings=[one["sentence"] for one in results.get("comparisons", ())],
        ranks=results.get("ranks") or {},
        benchmark=read_benchmark(workspace.recipe.folder / "benchmark.json"),
        variances=results.get("variances") or {},
        ranking=gathered.ranking
        if len(gathered.judges) < 3
        else f"{gathered.region} Dice, the mean of the {len(gathered.judges)} distilled students",
    )


def _terms(run: ModelRuns, fold: int) -> dict[str, Arrow]:
    facts = Segmenter.load(run.run_of(fold).model).facts
    return {name: Arrow(**term) for name, term in (facts.get("terms") or {}).items()}


def _lesions(run: ModelRuns, region: str) -> list[tuple[float, float]]:
    """Diameter of each reference lesion of all cases, and the share of the seeds whose prediction touches it."""
    found: list[tuple[float, float]] = []
    for same in zip(*run.cases.values(), strict=True):
        sides = [[x for x in case.lesions.get(region, ()) if x.side == "reference"] for case in same]
        for lesions in zip(*sides, strict=True):
            found.append((lesions[0].diameter_mm, sum(x.detected for x in lesions) / len(lesions)))
    return found


def key_slice(reference: np.ndarray, region: np.ndarray) -> int:
    """The slice with most of the region, or where there is none, most of any label, or the middle one."""
    for mask in (region, reference > 0):
        if mask.any():
            return int(mask.sum((1, 2)).argmax())
    return len(reference) // 2


def _ordinal(place: int) -> str:
    if place == 1:
        return "worst"
    return f"{place}{({2: 'nd', 3: 'rd'}).get(place % 10 if place % 100 not in (12, 13) else 0, 'th')} worst"


class _Gathered:
    """Pictures and maps; models are loaded once."""

    def __init__(self, workspace: Workspace, runs: Sequence[ModelRuns]):
        self.workspace, self.runs = workspace, runs
        self.regions = workspace.source.labels.regions
        self.region, self.organ = list(self.regions)[-1], next(iter(self.regions))
        self.results = {run.name: over_seeds(run) for run in runs}
        distilled = [run.name for run in runs if run.alone]
        self.judges = distilled or [runs[-1].name]
        self._models: dict[str, Segmenter] = {}

    @property
    def ranking(self) -> str:
        """What patients are ranked by."""
        mean = ", the mean" if len(self.judges) > 1 else ""
        return f"{self.region} Dice{mean} of {' and '.join(self.judges)}"

    def load(self, run: Run) -> Segmenter:
        """A run's model."""
        if str(run.model) not in self._models:
            self._models[str(run.model)] = Segmenter.load(run.model)
        return self._models[str(run.model)]

    def run_for(self, run: ModelRuns, patient: str) -> Run:
        """The run that was tested on a patient, of the first seed."""
        return next(one for one in run.runs if patient in self.workspace.split(one.fold).test)

    def chosen(self, count: int) -> list[tuple[str, int]]:
        """Ranks and places of the patients to show: the worst first, at last the median and the best."""
        scores = [
            np.mean([self.results[name][i].regions[self.region].dice for name in self.judges])
            for i in range(len(self.results[self.judges[0]]))
        ]
        ranked = sorted(range(len(scores)), key=lambda i: scores[i])
        rest = [("median", ranked[len(ranked) // 2]), ("best", ranked[-1])] if len(ranked) > 2 and count > 2 else []
        worst = [(_ordinal(k + 1), i) for k, i in enumerate(ranked)]
        worst = [(rank, i) for rank, i in worst if i not in [other for _, other in rest]]
        return worst[: max(0, count - len(rest))] + rest

    def volumes(self, index: int) -> tuple[str, Volume, dict[str, Volume]]:
        """Patient, image, and label maps of the reference and of every model."""
        result = self.results[self.judges[0]][index]
        case, source = case_named(self.workspace.source, result.case), self.workspace.source
        masks = {"reference": source.read_label(case).oriented(AXCODES)}
        for run in self.runs:
            folder = self.run_for(run, result.patient).folder
            volume: Volume = nifti.read_label(folder / "predictions" / f"{case.id}.nii.gz")
            masks[run.name] = volume.oriented(AXCODES)
        return result.patient, source.read_image(case).oriented(AXCODES), masks

    def patient(self, rank: str, index: int) -> PatientPicture:
        """A patient's slice with most of the last region."""
        patient, image, masks = self.volumes(index)
        reference = masks.pop("reference").voxels
        k = key_slice(reference, self.workspace.source.labels.region(reference, self.region))
        return PatientPicture(
            patient=patient,
            rank=rank,
            image=image.voxels[k],
            window_hu=self.workspace.store.preprocess.window_hu,
            spacing_mm=image.spacing_mm[1:],
            reference=reference[k],
            predictions={name: volume.voxels[k] for name, volume in masks.items()},
            scores={run.name: {name: s.dice for name, s in run.pictured[index].regions.items()} for run in self.runs},
        )

    def prepared_slice(self, index: int) -> "_Shown":
        """The key slice, or the patch around its region, as the networks are given it."""
        result, preprocess = self.results[self.judges[0]][index], self.workspace.store.preprocess
        image, target = self.workspace.store.slices(result.case)
        reference = np.asarray(target[:])
        region = self.workspace.source.labels.region(reference, self.region)
        key, window = _key_voxel(reference, region), preprocess.window(image.shape)
        start = [max(0, min(i - n // 2, size - n)) for i, n, size in zip(key, window, image.shape, strict=True)]
        corner = (start[0], start[1], start[2])
        pixels = views.shown(image, corner, window, neighbours=preprocess.neighbours, dims=preprocess.dims).numpy()
        labels = views.cut(reference, corner, window, 0).reshape(preprocess.shown(image.shape))
        return _Shown(result.patient, pixels, labels, key[0] - corner[0])

    def maps(self, index: int) -> dict[str, dict[str, np.ndarray]]:
        """Model -> maps of the key slice."""
        one = self.prepared_slice(index)
        members = self.regions[self.region]
        return {
            run.name: attention_maps(
                self.load(self.run_for(run, one.patient)), one.pixels, one.reference, members, one.place
            )
            for run in self.runs
        }

    def importance(self, places: Sequence[int]) -> list[ImportancePicture]:
        """Maps of teacher, student alone and distilled students: HLFD's first."""
        order = [run.name for run in self.runs if not run.alone]
        distilled = sorted((run.name for run in self.runs if run.alone), key=lambda name: "hlfd" not in name)
        shown = (order + distilled)[:SIDE_BY_SIDE]
        pictures: list[ImportancePicture] = []
        for index in places:
            one, found = self.prepared_slice(index), self.maps(index)
            maps = {name: found[name] for name in shown}
            pictures.append(ImportancePicture(one.patient, one.slice, one.target, maps, window=(-1.0, 1.0)))
        return pictures

    def attention(self) -> Attention | None:
        """Shares of the maps inside organ and tumour, over the cases whose key slice shows the last region."""
        shares: dict[str, list[dict[str, dict[str, float]]]] = {run.name: [] for run in self.runs}
        areas: list[dict[str, float]] = []
        for index in range(len(self.results[self.judges[0]])):
            reference = self.prepared_slice(index).target
            masks = {name: np.isin(reference, ids) for name, ids in self.regions.items()}
            if not masks[self.region].any():
                continue
            areas.append({name: float(mask.mean()) for name, mask in masks.items()})
            for model, maps in self.maps(index).items():
                shares[model].append(
                    {key: {name: share_inside(m, mask) for name, mask in masks.items()} for key, m in maps.items()}
                )
        if not areas:
            return None
        area = {name: float(np.mean([one[name] for one in areas])) for name in self.regions}
        return Attention(len(areas), area, {model: mean_shares(found) for model, found in shares.items()})

    def calibration(self, run: ModelRuns) -> Any:
        """Calibration over the test slices of all folds, first seed."""
        seed = run.first.seed
        cases = {case.id: case for case in self.workspace.cases(self.workspace.patients)}
        return calibration_of(
            (
                self.load(one),
                self.workspace.store,
                [c.id for c in cases.values() if c.patient in self.workspace.split(one.fold).test],
            )
            for one in run.runs
            if one.seed == seed
        )

    def viewer(self, places: Sequence[int]) -> list[ViewerCase]:
        """Cases to scroll through, the worst first, within the recipe's budget."""
        section = self.workspace.recipe.report
        places = places[: section.volume_cases]
        found: list[ViewerCase] = []
        for index in places:
            patient, image, masks = self.volumes(index)
            most = int(section.volume_mib * 2**20 / len(places))
            window = self.workspace.store.preprocess.window_hu
            case = viewer_case(patient, image, masks, window, most)
            found += [case] if case else []
        return found


@dataclass(frozen=True)
class _Shown:
    """What networks are given of a case, C x spatial, with its classes; ``place`` is the slice of interest in it."""

    patient: str
    pixels: np.ndarray
    reference: np.ndarray
    place: int

    @property
    def slice(self) -> np.ndarray:
        """Pixels of the slice, H x W."""
        return self.pixels[0, self.place] if self.pixels.ndim == 4 else self.pixels[len(self.pixels) // 2]

    @property
    def target(self) -> np.ndarray:
        """Classes of the slice, H x W."""
        return self.reference[self.place] if self.reference.ndim == 3 else self.reference


def _key_voxel(reference: np.ndarray, region: np.ndarray) -> tuple[int, int, int]:
    """The key slice, and the middle of the region in it, or of whatever is labelled, or of the slice."""
    k = key_slice(reference, region)
    for mask in (region[k], reference[k] > 0, np.ones_like(region[k])):
        if mask.any():
            break
    row, column = (int(np.median(places)) for places in np.nonzero(mask))
    return k, row, column
