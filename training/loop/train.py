"""The training loop, flat, on accelerate.

    python -m training.train training/recipes/demo-vision.toml --cache FOLDER --out FOLDER
    accelerate launch --config_file YOURS.yaml -m training.train RECIPE --out FOLDER     (several GPUs, FSDP, DeepSpeed)

Samples are numbered: step, rank and place in the batch name a sample, so that a run that was killed goes on with the
very same samples. Checkpoints are written beside their final name and renamed, so a half-written one never counts.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, broadcast_object_list, set_seed
from torch.utils.data import DataLoader, Dataset

from model.checkpoints.files import HEADS_FILE
from model.errors import ModelError
from training.data.collate import Collator, PackedBatch
from training.data.data_log import DataLog
from training.data.features import Features, tower_hash
from training.data.pictures import picture_side
from training.data.samples import Sample, SampleSource
from training.data.sources import Place, source_of
from training.loop.allocator import keep_freed_memory
from training.loop.log import TrainLog
from training.loop.nvila_learner import build, export, restore_learner
from training.loop.pause import Between, breaks_from_environment
from training.loop.steps import TrainingSteps
from training.loop.warm_start import set_structured_start
from training.recipe.recipe import Recipe, load_recipe
from training.records.drops import DataError


class TrainingStopped(ModelError):
    """Training was asked to stop; the newest checkpoint holds all steps done, and the next run continues from it."""


class _Numbered(Dataset[Sample]):
    """The samples that one rank sees from one step on, in order."""

    def __init__(self, source: SampleSource, *, first_step: int, recipe: Recipe, rank: int, ranks: int) -> None:
        self.source = source
        self.batch = recipe.optimiser.batch
        self.per_step = recipe.optimiser.accumulation
        self.first, self.rank, self.ranks = first_step, rank, ranks
        self.steps = recipe.run.steps - first_step

    def __len__(self) -> int:
        return self.steps * self.per_step * self.batch

    def __getitem__(self, index: int) -> Sample:
        micro, offset = divmod(index, self.batch)
        micro += self.first * self.per_step
        # The ranks share out consecutive numbers: no number is seen twice, and none is left out.
        return self.source.sample((micro * self.ranks + self.rank) * self.batch + offset)


def train(
    recipe: Recipe,
    out: Path,
    *,
    cache: Path | None = None,
    source: SampleSource | None = None,
    quiet: bool = False,
    between: Between | None = None,
) -> Path:
    """Run a recipe to its end from the newest checkpoint in `out`, if any; return the folder of the final model.

    source: the data, instead of those that the recipe names. between: asked after each step, see `training.loop.pause`.
    Raises TrainingStopped when `between` asks for it, TrainingError where the loss is not a number, and what
    `load_recipe` and the checkpoints raise.
    """
    accelerator = _open_accelerator(recipe)
    set_seed(recipe.run.seed)
    newest = newest_checkpoint(out)
    if source is None:
        source = _open_source(recipe, out, accelerator, cache=cache, fresh=newest is None, quiet=quiet)
    module, processor = _build_module(recipe, source)
    steps = TrainingSteps(accelerator, recipe, module)
    first = _restore(accelerator, newest)
    log = TrainLog(out, recipe, first, main=accelerator.is_main_process, quiet=quiet)
    data_log = DataLog(out, rank=accelerator.process_index, most=recipe.data.max_dropped, source=source)
    log.say(data_log.about)
    batches = iter(_loader(_samples_of_rank(source, first, recipe, accelerator), module.collator(processor), recipe))
    steps.model.train()
    for step in range(first, recipe.run.steps):
        losses = steps.take_step(step, batches, data_log)
        log.step(step + 1, losses, steps.rate, steps.waited)
        is_last = step + 1 == recipe.run.steps
        stop = _is_stop_asked(between, accelerator) and not is_last
        # A stop that is asked for saves first; the last step needs no checkpoint, because the final model follows it.
        if stop or ((step + 1) % recipe.run.checkpoint_every == 0 and not is_last):
            _save(accelerator, out, step + 1, recipe.run.keep_checkpoints)
        if stop:
            log.close()
            raise TrainingStopped(f"stopped after step {step + 1} of {recipe.run.steps}; the next run continues")
    final = out / "final"
    _export_final(steps, processor, final, findings=len(source.findings))
    if accelerator.is_main_process:
        log.say(data_log.finish())
    log.close()
    accelerator.end_training()
    return final


def _open_accelerator(recipe: Recipe) -> Accelerator:
    AcceleratorState._reset_state()  # else the first recipe's precision holds for all of this process
    return Accelerator(
        mixed_precision=recipe.optimiser.precision,
        gradient_accumulation_steps=recipe.optimiser.accumulation,
        # a batch without a lone image or without a pair leaves the tokens of that case unused
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


def _samples_of_rank(source: SampleSource, first: int, recipe: Recipe, accelerator: Accelerator) -> _Numbered:
    rank, ranks = accelerator.process_index, accelerator.num_processes
    return _Numbered(source, first_step=first, recipe=recipe, rank=rank, ranks=ranks)


def _restore(accelerator: Accelerator, newest: Path | None) -> int:
    """Load weights, optimiser, schedule and random states of the newest checkpoint; return the first step to take."""
    if newest is None:
        return 0
    accelerator.load_state(str(newest))
    return int(newest.name.removeprefix("step-"))  # `_Numbered` starts the data at the sample that comes next


def _open_source(
    recipe: Recipe, out: Path, accelerator: Accelerator, *, cache: Path | None, fresh: bool, quiet: bool
) -> SampleSource:
    """Open the data that the recipe names. fresh: a new run, so an index that lies in `out` is of another one."""
    is_quiet = quiet or not accelerator.is_main_process
    with accelerator.local_main_process_first():  # the first goes through the sets, the others read its index
        fresh = fresh and accelerator.is_local_main_process
        size = picture_side(recipe)
        return source_of(recipe, Place(work=out / "data", size=size, fresh=fresh, cache=cache, quiet=is_quiet))


def _build_module(recipe: Recipe, source: SampleSource) -> tuple[Any, Any]:
    """Build the learner at its start, and its processor. Raises DataError for features of another tower."""
    module, processor = build(recipe, len(source.findings))
    if recipe.data.features and tower_hash(module.model) != Features(folder=Path(recipe.data.features)).tower:
        raise DataError(f"{recipe.data.features} holds features of another tower than that of {recipe.model.start}")
    if recipe.model.start == "new":
        set_structured_start(module.model, source.films(64))
    return module, processor


def _export_final(steps: TrainingSteps, processor: Any, final: Path, *, findings: int) -> None:
    accelerator, recipe = steps.accelerator, steps.recipe
    accelerator.wait_for_everyone()
    sharded = accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
    # A collective: every rank gives its part, though the main process alone writes.
    state = accelerator.get_state_dict(steps.model) if sharded else {}
    if accelerator.is_main_process:
        whole = restore_learner(recipe, findings, state) if sharded else accelerator.unwrap_model(steps.model)
        export(whole, processor, final)


def _loader(samples: _Numbered, collate: Callable[[Sequence[Sample]], Any], recipe: Recipe) -> DataLoader[Any]:
    return DataLoader(
        samples,
        batch_size=recipe.optimiser.batch,
        shuffle=False,
        num_workers=recipe.data.workers,
        collate_fn=collate,
        persistent_workers=recipe.data.workers > 0,
        prefetch_factor=4 if recipe.data.workers else None,
    )


def _is_stop_asked(between: Between | None, accelerator: Accelerator) -> bool:
    """Tell whether to stop here: the main process asks, all ranks do the same."""
    stop = [between() if between is not None and accelerator.is_main_process else False]
    if accelerator.num_processes > 1:
        # All ranks or none: one that stopped alone would leave the others waiting in a collective call.
        broadcast_object_list(stop)
    return stop[0]


def _save(accelerator: Accelerator, out: Path, step: int, keep: int) -> None:
    """Write `step-N` atomically and drop the oldest beyond `keep`."""
    final, partial = out / f"step-{step}", out / f"partial-{step}"
    if accelerator.is_main_process and partial.exists():
        shutil.rmtree(partial)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(partial))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        # Every rank has written its part by now: only a whole checkpoint gets a name that `newest_checkpoint` finds.
        partial.replace(final)
        steps = sorted((int(path.name.removeprefix("step-")), path) for path in out.glob("step-*"))
        for _, path in steps[:-keep]:
            shutil.rmtree(path)
    accelerator.wait_for_everyone()


def newest_checkpoint(out: Path) -> Path | None:
    """The checkpoint to go on from, or None."""
    checkpoints = [path for path in out.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return max(checkpoints, key=lambda path: int(path.name.removeprefix("step-")), default=None)


def batches_of(recipe: Recipe, cache: Path, processor: Any, work: Path) -> Iterator[PackedBatch]:
    """The batches of a run without the run: for benches and tests of the data path. work: folder for the index."""
    source = source_of(recipe, Place(work=work, size=picture_side(recipe), cache=cache))
    samples = _Numbered(source, first_step=0, recipe=recipe, rank=0, ranks=1)
    yield from _loader(samples, Collator(processor), recipe)


def run_recipe(
    recipe: Path, out: Path, *, cache: Path | None = None, start: str | None = None, threads: int = 0
) -> Path:
    """Train by a recipe file as the command line does; start: a checkpoint folder that replaces the recipe's."""
    keep_freed_memory()
    if threads:
        torch.set_num_threads(threads)
    loaded = load_recipe(recipe)
    if start is not None:
        heads = Path(start) / HEADS_FILE
        # Heads lie beside the start: another start without its own heads would be read by those of the recipe's.
        changes = {"start": start, "heads": str(heads) if loaded.heads.weight and heads.exists() else None}
        loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update=changes)})
    return train(loaded, out, cache=cache, between=breaks_from_environment())


def main(
    recipe: Annotated[Path, typer.Argument(help="a recipe, see training/recipes")],
    out: Annotated[
        Path, typer.Option(help="checkpoints, log and the final model go here; a run found there is continued")
    ],
    cache: Annotated[Path | None, typer.Option(help="folder of rendered phantom pairs")] = None,
    start: Annotated[str | None, typer.Option(help="checkpoint folder to start from, instead of the recipe's")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads of torch; 0: as it likes")] = 0,
) -> None:
    """Train by RECIPE."""
    try:
        final = run_recipe(recipe, out, cache=cache, start=start, threads=threads)
    except (ModelError, DataError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(1) from error
    print(f"done: {final}")


if __name__ == "__main__":
    typer.run(main)
