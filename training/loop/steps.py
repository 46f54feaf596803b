"""One step of the training after the other: losses, their gradients over the batches of a step, and the update."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType

from training.data.data_log import DataLog
from training.loop.log import TrainingError
from training.loop.optimizers import make_optimisers, rate_factor
from training.recipe.recipe import Recipe


class TrainingSteps:
    """The model with its optimisers and schedules. waited: seconds that steps have waited for data."""

    def __init__(self, accelerator: Accelerator, recipe: Recipe, module: Any) -> None:
        self.accelerator, self.recipe = accelerator, recipe
        optimisers = make_optimisers(module, recipe)
        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(each, lambda step: rate_factor(step, recipe)) for each in optimisers
        ]
        if accelerator.distributed_type == DistributedType.DEEPSPEED:  # it asks for this where it is given no loader
            plugin = accelerator.state.deepspeed_plugin
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = recipe.optimiser.batch
        self.model, *self._optimisers = accelerator.prepare(module, *optimisers)
        # Kept with the checkpoint but not prepared: accelerate would step each schedule once for every process.
        accelerator.register_for_checkpointing(*self._schedules)
        self.waited = 0.0

    @property
    def rate(self) -> float:
        """The learning rate of the last optimiser, for the log."""
        return float(self._schedules[-1].get_last_lr()[0])

    def take_step(self, step: int, batches: Iterator[Any], data_log: DataLog) -> dict[str, float]:
        """One update of the weights; returns the losses by name, as means over its batches."""
        sums: dict[str, float] = {}
        for _ in range(self.recipe.optimiser.accumulation):
            started = time.perf_counter()
            batch = next(batches).to(self.accelerator.device)
            # Time that the device stood still for data; the log tells it, because a slow loader looks like a slow
            # model.
            self.waited += time.perf_counter() - started
            data_log.note(self.recipe.optimiser.batch, batch.dropped)
            for name, loss in self._learn_from(batch, step).items():
                sums[name] = sums.get(name, 0.0) + float(loss.detach()) / self.recipe.optimiser.accumulation
        for schedule in self._schedules:
            schedule.step()
        return sums

    def _learn_from(self, batch: Any, step: int) -> dict[str, torch.Tensor]:
        with self.accelerator.accumulate(self.model):
            with self.accelerator.autocast():
                losses: dict[str, torch.Tensor] = self.model(batch)
            _refuse_nan(losses, step)  # before the weights take it in: the newest checkpoint stays of use
            self.accelerator.backward(losses["loss"])
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.optimiser.clip)
            for optimiser in self._optimisers:
                # accelerate lets both pass without effect until the step's last batch.
                optimiser.step()
                optimiser.zero_grad()
        return losses


def _refuse_nan(losses: dict[str, torch.Tensor], step: int) -> None:
    bad = [name for name, loss in losses.items() if not bool(torch.isfinite(loss.detach()))]
    if bad:
        raise TrainingError(
            f"step {step + 1}: the loss is not a number ({', '.join(bad)}). The checkpoint before it is unharmed; "
            "lower optimiser.rate, or set optimiser.precision to 'no', and start again: it continues from there"
        )
