"""`llmkit pretrain`: a model from a recipe."""

from llmkit.cli import options, render, training
from llmkit.recipe.reading import read_recipe

OBJECTIVES = ("causal-lm", "masked-lm", "seq2seq")


def pretrain(
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
    """Pretrain a model as a recipe says; the run folder is a checkpoint for every other command."""
    render.NOTES.quiet, render.NOTES.at_once = quiet, True
    settled = read_recipe(recipe, keys or [])
    if settled.objective not in OBJECTIVES:
        sentence = f"{settled.objective} begins with a checkpoint; expected llmkit finetune in the place of pretrain"
        raise training.refuse(settled, "objective", sentence)
    training.run_recipe(
        settled,
        ["llmkit", "pretrain", recipe, *(keys or [])],
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
