"""The study of the arms on courses: what each stream adds where the future can be known, and what a real expert adds.

    python -m training.arms.courses run OUT                     every run that has no result in OUT yet, seed by seed
    python -m training.arms.courses table OUT --doc docs/arms-study.md
    make study-courses COURSES=FOLDER                           both

An interruption loses less than a run: training goes on from its newest checkpoint, a finished run from its result.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from model.checkpoints.registry import DEMO, resolve_source
from model.engine.vlm import NvilaVlm, open_vlm
from model.experts.expert import CONFIGURATION, Expert, load_expert
from model.nvila import load_nvila
from training.arms.course_ask import CourseAnswer, CourseAnswerSet, ask_courses
from training.arms.course_data import CourseArmSource, StudyCourses
from training.arms.course_expert import make_expert
from training.arms.course_table import BUNDLED, PREDICTION, WITH_EXPERT, Results, write_course_study
from training.arms.run import RECIPES
from training.loop.allocator import keep_freed_memory
from training.loop.train import train
from training.recipe.recipe import Recipe, load_recipe

TRAINING, EXPERT, TEST = (3_400_000, 120), (3_500_000, 100), (9_600_000, 80)
"""First seed and number of courses that the arms learn from, that the expert learns from, and that both are tested on;
from 9,000,000 on seeds are for evaluation only."""
SEEDS = (1, 2, 3)
EXPERT_FOLDER = "expert-model"
SIDE = 224
"""Pixels that the bundled tower sees."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseArm:
    """One arm. learns: goes on from the bundled model. expert: half of its sequences show the expert's text."""

    name: str
    learns: bool = True
    expert: bool = False


COURSE_ARMS = (
    CourseArm(name=BUNDLED, learns=False),
    CourseArm(name=PREDICTION),
    CourseArm(name=WITH_EXPERT, expert=True),
)
"""In the order in which they add to one another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CourseStudy:
    """The data of the study. checkpoint: the bundled model, where every arm starts."""

    out: Path
    checkpoint: Path
    training: StudyCourses
    test: StudyCourses
    expert: Expert


def test_of(out: Path, count: int) -> StudyCourses:
    """The courses that every arm is tested on."""
    return StudyCourses(folder=out / "test", first_seed=TEST[0], courses=count, side=SIDE)


def prepare(out: Path, counts: tuple[int, int, int]) -> CourseStudy:
    """Render the courses, fit the expert, and compute features and opinions, each where it is not there yet.

    counts: courses to learn from, for the expert, and of the test.
    """
    training = StudyCourses(folder=out / "training", first_seed=TRAINING[0], courses=counts[0], side=SIDE)
    of_expert = StudyCourses(folder=out / "expert", first_seed=EXPERT[0], courses=counts[1], side=SIDE)
    test = test_of(out, counts[2])
    checkpoint = Path(resolve_source(DEMO))
    expert = make_expert(out / EXPERT_FOLDER, checkpoint, of_expert)
    model, processor = load_nvila(checkpoint)
    training.compute_features(model.eval(), processor)
    for courses in (training, test):
        courses.compute_opinions(expert)
    return CourseStudy(out=out, checkpoint=checkpoint, training=training, test=test, expert=expert)


def arm_recipe(start: Path, *, seed: int, steps: int | None) -> Recipe:
    """The recipe of every arm, from the bundled checkpoint and with its seed."""
    recipe = load_recipe(RECIPES / "courses.toml")
    run = recipe.run.model_copy(update={"seed": seed, "steps": steps or recipe.run.steps})
    model = recipe.model.model_copy(update={"start": str(start)})
    return recipe.model_copy(update={"run": run, "model": model})


def run_arm(arm: CourseArm, seed: int, study: CourseStudy, steps: int | None) -> None:
    """Train one arm with one seed (the bundled model not at all), ask it, write its result."""
    result = result_path(study.out, arm, seed)
    if result.exists():
        return
    began = time.process_time()
    folder, trained = study.checkpoint, 0
    labels = study.expert.labels if arm.expert else ()
    if arm.learns:
        recipe = arm_recipe(study.checkpoint, seed=seed, steps=steps)
        folder, trained = result.with_suffix("") / "final", recipe.run.steps
        if not (folder / "config.json").exists():  # else it was interrupted while it was asked
            source = CourseArmSource(courses=study.training, seed=seed, labels=labels)
            train(recipe, result.with_suffix(""), source=source)
    vlm = open_vlm(folder)
    assert isinstance(vlm, NvilaVlm)
    answers = {"without": ask_courses(vlm, study.test)}
    if labels:
        answers["with"] = ask_courses(vlm, study.test, labels)
    about = {
        "arm": arm.name,
        "seed": seed,
        "steps": trained,
        "processor_seconds": round(time.process_time() - began, 1),
        "test_courses": study.test.courses,
        "training_courses": study.training.courses,
    }
    values: dict[str, Any] = about | {"answers": {k: [item.as_json() for item in v] for k, v in answers.items()}}
    partial = result.with_suffix(".partial")
    partial.write_text(json.dumps(values) + "\n", "utf-8")
    partial.replace(result)


def result_path(out: Path, arm: CourseArm, seed: int) -> Path:
    """Where the result of one run lies."""
    word = arm.name.removeprefix("+ ").replace(" ", "-")
    return out / f"{word}-{seed}.json"


def read_results(out: Path) -> Results:
    """The runs of each arm that has one: about it, and its answers "without" and perhaps "with" the expert's text."""
    results: dict[str, list[tuple[dict[str, Any], dict[str, list[CourseAnswer]]]]] = {}
    for arm in COURSE_ARMS:
        paths = sorted(out.glob(f"{result_path(out, arm, 0).stem.removesuffix('-0')}-[0-9]*.json"))
        if paths:
            results[arm.name] = [_read_result(path) for path in paths]
    learned = [{about["seed"] for about, _ in results.get(arm.name, [])} for arm in COURSE_ARMS if arm.learns]
    whole = set.intersection(*learned)  # a seed that one arm lacks would compare two draws, not two arms
    return {
        arm.name: [run for run in results[arm.name] if not arm.learns or run[0]["seed"] in whole]
        for arm in COURSE_ARMS
        if results.get(arm.name) and (whole or not arm.learns)
    }


def _read_result(path: Path) -> tuple[dict[str, Any], dict[str, list[CourseAnswer]]]:
    values = json.loads(path.read_text("utf-8"))
    answers = {
        how: [CourseAnswer(**{**item, "set": CourseAnswerSet(item["set"])}) for item in items]
        for how, items in values.pop("answers").items()
    }
    return values, answers


app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.command("run")
def run_command(
    out: Annotated[Path, typer.Argument(help="folder of the study; what is there is kept")],
    seeds: Annotated[str, typer.Option(help="comma-separated")] = ",".join(map(str, SEEDS)),
    steps: Annotated[int | None, typer.Option(help="of each arm; default: the recipe's")] = None,
    training_courses: Annotated[int, typer.Option(help="courses that the arms learn from")] = TRAINING[1],
    expert_courses: Annotated[int, typer.Option(help="courses that the expert learns from")] = EXPERT[1],
    test_courses: Annotated[int, typer.Option(help="held-out courses that every arm is asked about")] = TEST[1],
    threads: Annotated[int, typer.Option(help="CPU threads of torch")] = 1,
) -> None:
    """Train and ask every arm that has no result yet, all arms of a seed before the next seed."""
    keep_freed_memory()
    torch.set_num_threads(threads)
    study = prepare(out, (training_courses, expert_courses, test_courses))
    drawn = [int(word) for word in seeds.split(",")]
    for seed in drawn:
        for arm in COURSE_ARMS:
            if arm.learns or seed == drawn[0]:  # without training there is nothing to draw
                print(f"--- {arm.name}, seed {seed}", flush=True)
                run_arm(arm, seed, study, steps)


@app.command("table")
def table_command(
    out: Annotated[Path, typer.Argument(help="folder of the study")],
    doc: Annotated[Path, typer.Option(help="document that gets the tables; their values go into a JSON beside it")],
) -> None:
    """Write the tables of the runs that are there."""
    results = read_results(out)
    if not results:
        raise typer.BadParameter(f"{out} holds no result; python -m training.arms.courses run {out} makes them")
    test = test_of(out, next(iter(results.values()))[0][0]["test_courses"])
    if (out / EXPERT_FOLDER / CONFIGURATION).exists():
        test.compute_opinions(load_expert(out / EXPERT_FOLDER))
    for path in write_course_study(results, test, doc):
        print(path)


if __name__ == "__main__":
    app()
