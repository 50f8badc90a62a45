"""`llmkit finetune`: a model from a checkpoint and a recipe."""

from llmkit.cli import options, render, training
from llmkit.recipe.reading import read_recipe


def finetune(
    recipe: options.Recipe,
    keys: options.Keys = None,
    num_processes: training.NumProcesses = None,
    accelerate: training.Accelerate = None,
    dry_run: training.DryRun = False,
    gpu: training.Gpu = None,
    price_per_hour: training.PricePerHour = None,
    resume: training.Resume = "never",
    overwrite: training.Overwrite = False,
    max_seconds: training.MaxSeconds = None,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Fine-tune a checkpoint as a recipe says, all of it or an adapter; the run folder is a checkpoint."""
    render.NOTES.quiet, render.NOTES.at_once = quiet, True
    settled = read_recipe(recipe, keys or [])
    if settled.model.name is None:
        sentence = "missing; add the checkpoint to begin with (llmkit pretrain makes a new model)"
        raise training.refuse(settled, "model.name", sentence)
    training.run_recipe(
        settled,
        ["llmkit", "finetune", recipe, *(keys or [])],
        num_processes=num_processes,
        accelerate=accelerate,
        dry_run=dry_run,
        gpu=gpu,
        price_per_hour=price_per_hour,
        resume=resume,
        overwrite=overwrite,
        max_seconds=max_seconds,
        quiet=quiet,
        debug=debug,
    )
