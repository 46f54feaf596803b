"""The study of the arms: what each stream of training data adds, on phantoms, from one common start.

    python -m training.arms.run run OUT --cache CACHE       every run that has no result in OUT yet
    python -m training.arms.run table OUT --doc docs/arms-study.md
    make study-arms OUT=FOLDER                          renders the phantoms, runs, writes the table

An interruption loses one run: each writes its result, with every answer, as one JSON file when it is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from model.checkpoints.files import HEADS_FILE
from model.engine.vlm import NvilaVlm, open_vlm
from model.nvila import load_nvila
from training.arms.ask import AnswerSet, ArmAnswer, ask_all
from training.arms.data import ArmSource, ArmStream, StudyPhantoms
from training.arms.table import write_study
from training.loop.nvila_learner import new_model
from training.loop.train import train
from training.phantom.cache import fill
from training.readers.phantom import HELD_OUT_SEED
from training.recipe.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parent.parent / "recipes" / "arms"
SEEDS = (1, 2, 3)
TEST_PAIRS = 150
DIFFERENCE_TOKENS = 16
_STREAMS = tuple(ArmStream)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One arm. streams: what it learns from, empty for none; difference: with the explicit difference feature."""

    name: str
    streams: frozenset[ArmStream]
    difference: bool = False

    @property
    def expert(self) -> bool:
        """Tell whether its test shows the expert's text as well."""
        return ArmStream.EXPERT in self.streams


ARMS = (
    Arm(name="zero-shot", streams=frozenset()),
    Arm(name="diagnostic only", streams=frozenset(_STREAMS[:1])),
    Arm(name="+ difference", streams=frozenset(_STREAMS[:2])),
    Arm(name="+ prediction", streams=frozenset(_STREAMS[:3])),
    Arm(name="+ long answers", streams=frozenset(_STREAMS[:4])),
    Arm(name="+ expert", streams=frozenset(_STREAMS)),
    Arm(name="+ difference feature", streams=frozenset(_STREAMS), difference=True),
)
"""In the order in which they add to one another."""


def start_of(out: Path, phantoms: StudyPhantoms) -> Path:
    """The common start: trained once, then left alone; returns its folder."""
    recipe = load_recipe(RECIPES / "vision.toml")
    final = out / "vision" / "final"
    if not (final / HEADS_FILE).exists():
        source = ArmSource(phantoms=phantoms, streams=frozenset(), seed=recipe.run.seed, heads_only=True)
        train(recipe, out / "vision", source=source)
    return final


def start_with_difference(start: Path) -> Path:
    """The same weights in a model that has the difference feature, whose own weights are new; returns its folder."""
    folder = start.parent / "difference"
    if not (folder / HEADS_FILE).exists():
        sizes = load_recipe(RECIPES / "vision.toml").architecture
        # The new weights are drawn, the same for every arm; all others are then overwritten by the start's.
        torch.manual_seed(0)
        model, processor = new_model(sizes.model_copy(update={"difference_tokens": DIFFERENCE_TOKENS}))
        old, _ = load_nvila(start)
        missing = model.load_state_dict(old.state_dict(), strict=False)
        # Nothing but the feature's own weights may be new.
        strange = [name for name in missing.missing_keys if not name.startswith("longitudinal.")]
        if strange or missing.unexpected_keys:
            raise ValueError(f"{start} does not fit the study's architecture: {strange + missing.unexpected_keys}")
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        (folder / HEADS_FILE).write_bytes((start / HEADS_FILE).read_bytes())
    return folder


def arm_recipe(start: Path, *, seed: int, steps: int | None) -> Recipe:
    """The recipe of every arm, from its start and with its seed."""
    recipe = load_recipe(RECIPES / "arm.toml")
    run = recipe.run.model_copy(update={"seed": seed, "steps": steps or recipe.run.steps})
    model = recipe.model.model_copy(update={"start": str(start), "heads": str(start / HEADS_FILE)})
    return recipe.model_copy(update={"run": run, "model": model})


def run_arm(arm: Arm, seed: int, out: Path, phantoms: StudyPhantoms, test: StudyPhantoms, steps: int | None) -> None:
    """Train one arm with one seed (the zero-shot arm not at all), ask it, write its result."""
    result = result_path(out, arm, seed)
    if result.exists():
        return
    start = start_of(out, phantoms)
    folder, seconds, trained = start, 0.0, 0
    if arm.streams:
        recipe = arm_recipe(start_with_difference(start) if arm.difference else start, seed=seed, steps=steps)
        began, trained = time.perf_counter(), recipe.run.steps
        source = ArmSource(phantoms=phantoms, streams=arm.streams, seed=seed)
        folder = result.with_suffix("") / "final"
        if not (folder / HEADS_FILE).exists():  # else it was interrupted while it was asked
            train(recipe, result.with_suffix(""), source=source)
        seconds = time.perf_counter() - began
    began = time.perf_counter()
    vlm = open_vlm(folder)
    assert isinstance(vlm, NvilaVlm)
    answers = {"with": ask_all(vlm, test, expert=True)} if arm.expert else {}
    answers["without"] = ask_all(vlm, test, expert=False)
    about = {
        "arm": arm.name,
        "seed": seed,
        "steps": trained,
        "train_seconds": round(seconds, 1),
        "test_seconds": round(time.perf_counter() - began, 1),
        "test_pairs": test.pairs,
        "training_pairs": phantoms.pairs,
    }
    values: dict[str, Any] = about | {"answers": {k: [item.as_json() for item in v] for k, v in answers.items()}}
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(values) + "\n", "utf-8")
    partial.replace(result)


def result_path(out: Path, arm: Arm, seed: int) -> Path:
    """Where the result of one run lies."""
    word = arm.name.removeprefix("+ ").replace(" ", "-")
    return out / f"{word}-{seed}.json"


def read_result(path: Path) -> tuple[dict[str, Any], dict[str, list[ArmAnswer]]]:
    """Read a run's files: about it, and its answers "without" and, where there are, "with" the expert's text."""
    values = json.loads(path.read_text("utf-8"))
    answers = {
        how: [ArmAnswer(**{**item, "set": AnswerSet(item["set"])}) for item in items]
        for how, items in values.pop("answers").items()
    }
    return values, answers


def runs_of(arm: Arm, seeds: Sequence[int]) -> Sequence[int]:
    """The seeds that an arm is run with: without training there is nothing to draw."""
    return seeds if arm.streams else seeds[:1]


app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command("run")
def run_command(
    out: Annotated[Path, typer.Argument(help="folder of the study; results that are there are kept")],
    cache: Annotated[Path, typer.Option(help="phantom pairs of training.phantom.cache; 112 pixels or a multiple")],
    seeds: Annotated[str, typer.Option(help="comma-separated")] = ",".join(map(str, SEEDS)),
    steps: Annotated[int | None, typer.Option(help="of each arm; default: the recipe's")] = None,
    test_pairs: Annotated[int, typer.Option(help="held-out pairs that every arm is asked about")] = TEST_PAIRS,
    threads: Annotated[int, typer.Option(help="CPU threads of torch")] = 1,
) -> None:
    """Train and ask every arm that has no result yet, seed by seed."""
    torch.set_num_threads(threads)
    side = load_recipe(RECIPES / "vision.toml").architecture.image_size
    fill(out / "test", pairs=test_pairs, first_seed=HELD_OUT_SEED, size=side)
    phantoms, test = StudyPhantoms(folder=cache, side=side), StudyPhantoms(folder=out / "test", side=side)
    for seed in (int(word) for word in seeds.split(",")):
        for arm in ARMS:
            if seed in runs_of(arm, [int(word) for word in seeds.split(",")]):
                print(f"--- {arm.name}, seed {seed}", flush=True)
                run_arm(arm, seed, out, phantoms, test, steps)


@app.command("table")
def table_command(
    out: Annotated[Path, typer.Argument(help="folder of the study")],
    doc: Annotated[Path, typer.Option(help="document that gets the tables; its JSON is written beside it")],
) -> None:
    """Write the tables of the runs that are there."""
    results: dict[str, list[tuple[dict[str, Any], dict[str, list[ArmAnswer]]]]] = {}
    for arm in ARMS:
        paths = sorted(out.glob(f"{result_path(out, arm, 0).stem.removesuffix('-0')}-[0-9]*.json"))
        if paths:
            results[arm.name] = [read_result(path) for path in paths]
    for path in write_study(results, doc):
        print(path)


if __name__ == "__main__":
    app()
