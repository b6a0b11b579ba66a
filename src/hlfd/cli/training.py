"""Training: teacher, student, and what the teacher knows."""

from pathlib import Path
from typing import Annotated

import typer

from hlfd.cli._app import Cache, Fold, Overrides, RecipeFile, Workers, app, model_folder, say, with_cache

Devices = Annotated[
    int, typer.Option(min=1, help="Processes on this machine, a GPU each; the batch size is that of each one.")
]
Nodes = Annotated[int, typer.Option(min=1, help="Machines, each started by torchrun or SLURM.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="Threads of each process. Default: PyTorch's choice.", show_default=False)
]
LoaderWorkers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that read slices. Default: 2 beside a GPU, else none.", show_default=False),
]
Compile = Annotated[bool, typer.Option("--compile", help="Run the teacher through torch.compile.")]
Profile = Annotated[bool, typer.Option("--profile", help="Say which part of a step takes how long; profile.json.")]


@app.command()
def train(
    recipe: RecipeFile,
    overrides: Overrides = None,
    role: Annotated[str, typer.Option(help="Which network: teacher, or student (alone).")] = "teacher",
    fold: Fold = 0,
    workers: Workers = None,
    devices: Devices = 1,
    num_nodes: Nodes = 1,
    threads: Threads = None,
    loader_workers: LoaderWorkers = None,
    profile: Profile = False,
) -> None:
    """Train the recipe's teacher, or its student alone, from labels. An interrupted run is continued."""
    from hlfd import recipe as recipes
    from hlfd.errors import InputError, nearest
    from hlfd.machine import Machine
    from hlfd.study import steps

    if role not in ("teacher", "student"):
        raise InputError(f"--role: expected teacher or student, got '{role}'{nearest(role, ('teacher', 'student'))}")
    machine = Machine(devices, num_nodes, threads, loader_workers, profile=profile)
    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers, machine)
    if role == "teacher":
        for folder in steps.train_teachers(ready, fold):
            say(folder)
    else:
        say(steps.train_student(ready, fold, ready.recipe.method("seg")))


@app.command()
def distill(
    recipe: RecipeFile,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="Distillation method, see 'hlfd list methods'.")] = "hlfd",
    teacher: Annotated[
        Path | None, typer.Option(help="Teacher's model folder. Default: the recipe's own teacher.")
    ] = None,
    fold: Fold = 0,
    cache: Cache = None,
    workers: Workers = None,
    devices: Devices = 1,
    num_nodes: Nodes = 1,
    threads: Threads = None,
    loader_workers: LoaderWorkers = None,
    compile: Compile = False,
    profile: Profile = False,
) -> None:
    """Train the recipe's student with a teacher. An interrupted run is continued."""
    from hlfd import recipe as recipes
    from hlfd.machine import Machine
    from hlfd.study import steps

    machine = Machine(devices, num_nodes, threads, loader_workers, compile, profile)
    ready = steps.Workspace(recipes.read(recipe, with_cache(overrides, cache)), workers, machine)
    say(steps.train_student(ready, fold, ready.recipe.method(method), teacher and model_folder(teacher)))


@app.command()
def cache(
    recipe: RecipeFile,
    overrides: Overrides = None,
    method: Annotated[str, typer.Option(help="Distillation method, see 'hlfd list methods'.")] = "hlfd",
    teacher: Annotated[
        Path | None, typer.Option(help="Teacher's model folder. Default: the recipe's own teacher.")
    ] = None,
    fold: Fold = 0,
    workers: Workers = None,
    threads: Threads = None,
    compile: Compile = False,
) -> None:
    """Ask the teacher about every training slice ahead. 'distill' then runs without it. Can be continued.

    Training does the same by itself, slice by slice as they come; ahead, every epoch runs at the student's own speed.
    """
    from hlfd import recipe as recipes
    from hlfd.machine import Machine
    from hlfd.study import steps

    ready = steps.Workspace(recipes.read(recipe, overrides or []), workers, Machine(threads=threads, compile=compile))
    for path in steps.build_cache(ready, fold, ready.recipe.method(method), teacher and model_folder(teacher)):
        say(path)
