"""Data: prepare it."""

from hlfd.cli._app import Overrides, RecipeFile, Workers, app


@app.command()
def prepare(recipe: RecipeFile, overrides: Overrides = None, workers: Workers = None) -> None:
    """Prepare a recipe's data: orient, resample, window, crop, split by patient. Cases already done are kept."""
    from hlfd import recipe as recipes
    from hlfd.data.splits import require_distinct
    from hlfd.progress import console
    from hlfd.study import steps

    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers)
    splits = ready.splits  # what can't be split is said before the work
    size = sum(f.stat().st_size for f in ready.store.root.rglob("*.b2nd")) / 2**20
    lost = sum(case.cropped_away for case in ready.store.cases.values())
    console.print(f"{ready.store.root}: {len(ready.store.cases)} cases, {size:.1f} MiB", highlight=False)
    if lost:
        console.print(f"  {lost} labelled pixels lie outside the crop and are not trained on", highlight=False)
    for fold, split in enumerate(splits):
        require_distinct(ready.store, split)
        sizes = f"{len(split.train)} train, {len(split.validation)} validation, {len(split.test)} test patients"
        console.print(f"  fold {fold}: {sizes}", highlight=False)
