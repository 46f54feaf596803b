"""Training: what a packed batch shows, refusals, frozen parts, and a run that goes on exactly where it was killed."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from model.nvila import load_nvila
from model.questions.prompts import PromptLayout, Turn, render_prefix, render_question
from tests.support.common import REPOSITORY, wait_until
from tests.support.forked import ForkedProcess
from training.data.collate import Collator
from training.data.mixed_source import MixedSource
from training.data.samples import UNKNOWN, Sample
from training.data.sources import Place, source_of
from training.loop.log import TrainingError
from training.loop.nvila_learner import build
from training.loop.optimizers import parameter_groups, rate_factor
from training.loop.train import newest_checkpoint, train
from training.loop.warm_start import cosine_basis, set_structured_start
from training.phantom.cache import fill
from training.phantom.render import PHANTOM_FINDINGS
from training.recipe.recipe import Recipe, RecipeError, load_recipe

TINY = """
[run]
objective = "{objective}"
steps = {steps}
checkpoint_every = 2
tune = "{tune}"

[optimiser]
rate = 1e-3
batch = 2
precision = "no"
attention = "eager"

[architecture]
image_size = 32
patch_size = 8
vision_width = 24
vision_layers = 2
vision_heads = 2
vision_feed = 32
text_width = 24
text_layers = 2
text_heads = 2
text_kv_heads = 1
text_feed = 32
difference_tokens = 4

[data]
turns = 4
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantoms")
    fill(folder, pairs=12, first_seed=500, size=32)
    return folder


def _recipe(folder: Path, *, objective: str = "instructions", steps: int = 6, tune: str = "full") -> Path:
    path = folder / "recipe.toml"
    path.write_text(TINY.format(objective=objective, steps=steps, tune=tune), "utf-8")
    return path


def _loaded(folder: Path, **values: Any) -> Recipe:
    return load_recipe(_recipe(folder, **values))


def _source(recipe: Recipe, cache: Path, work: Path, *, seed: int = 0) -> MixedSource:
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": seed})})
    return source_of(recipe, Place(work=work, size=32, cache=cache))


# --- what a batch shows ---


def test_a_packed_question_is_answered_as_if_asked_alone(tmp_path: Path, cache: Path) -> None:
    torch.manual_seed(0)
    trainable, processor = build(_loaded(tmp_path), len(PHANTOM_FINDINGS))
    trainable.eval()
    turns = (
        Turn(question="is there edema in the current image?", answer="yes"),
        Turn(question="which side is pneumothorax on in the current image?", answer="bilateral"),
        Turn(question="how did atelectasis change from the prior to the current image?", answer="worsening"),
    )
    films = np.random.default_rng(0).integers(0, 255, (2, 32, 32)).astype(np.uint8)
    layout = PromptLayout(priors=1, difference=True)
    sample = Sample(images=tuple(films), layout=layout, turns=turns)
    with torch.no_grad():
        packed = trainable(Collator(processor)([sample]))["answers"]
        single = [
            trainable(Collator(processor)([Sample(images=tuple(films), layout=layout, turns=(turn,))]))["answers"]
            for turn in turns
        ]
    # every answer has as many tokens here (a word and the end), so the mean of means is the mean
    assert {len(processor.tokenizer(f"{t.answer}<|im_end|>").input_ids) for t in turns} == {2}
    assert float(packed) == pytest.approx(float(torch.stack(single).mean()), abs=1e-5)

    text = render_prefix(layout) + render_question(turns[0].question) + "yes<|im_end|>"
    inputs = processor(images=list(films), text=text)
    with torch.no_grad():
        logits = trainable.model(**inputs).logits[0].log_softmax(-1)
    ids = inputs["input_ids"][0]
    plain = -(logits[-3, ids[-2]] + logits[-2, ids[-1]]) / 2
    assert float(single[0]) == pytest.approx(float(plain), abs=1e-5)


def test_loss_is_taken_over_answers_only(tmp_path: Path, cache: Path) -> None:
    recipe = _loaded(tmp_path)
    _, processor = build(recipe, len(PHANTOM_FINDINGS))
    source = _source(recipe, cache, tmp_path / "work")
    samples = [source.sample(number) for number in range(4)]
    batch = Collator(processor)(samples)
    assert batch.labels is not None
    assert batch.input_ids is not None
    for row, sample in enumerate(samples):
        learned = batch.labels[row] != UNKNOWN
        said = processor.tokenizer.decode(batch.input_ids[row][learned])
        assert said == "".join(f"{turn.answer}<|im_end|>" for turn in sample.turns)


def test_no_question_sees_another(tmp_path: Path, cache: Path) -> None:
    _, processor = build(_loaded(tmp_path), len(PHANTOM_FINDINGS))
    film = np.zeros((32, 32), np.uint8)
    turns = tuple(Turn(question=f"is there {name}?", answer="no") for name in ("edema", "hernia"))
    batch = Collator(processor)([Sample(images=(film,), layout=PromptLayout(), turns=turns)])
    assert batch.mask is not None
    assert batch.position_ids is not None
    mask, positions = batch.mask[0, 0], batch.position_ids[0]
    starts = [int(place) for place in torch.where(positions[1:] < positions[:-1])[0] + 1]
    assert len(starts) == 1, "positions start again behind the prefix, once"
    second = starts[0]
    prefix = int(positions[second])
    assert mask[second:, :prefix].all()
    assert not mask[second:, prefix:second].any()
    assert not torch.triu(mask, 1).any()


def test_a_turn_without_answer_and_a_sequence_too_long_are_refused(tmp_path: Path) -> None:
    _, processor = build(_loaded(tmp_path), len(PHANTOM_FINDINGS))
    film = np.zeros((32, 32), np.uint8)
    open_turn = Sample(images=(film,), layout=PromptLayout(), turns=(Turn(question="what now?"),))
    with pytest.raises(ValueError, match="no answer"):
        Collator(processor)([open_turn])
    long = Sample(images=(film,), layout=PromptLayout(), turns=(Turn(question="why?", answer="because " * 30),))
    with pytest.raises(ValueError, match="max_length"):
        Collator(processor, max_length=40)([long])


def test_samples_are_the_same_every_time(tmp_path: Path, cache: Path) -> None:
    recipe = _loaded(tmp_path)
    first, second = (_source(recipe, cache, tmp_path / name, seed=5) for name in ("one", "two"))
    for number in (0, 3, 10**6):
        a, b = first.sample(number), second.sample(number)
        assert a.turns == b.turns
        assert all(np.array_equal(x, y) for x, y in zip(a.images, b.images, strict=True))
    other = _source(recipe, cache, tmp_path / "one", seed=6).sample(0)
    assert other.turns != first.sample(0).turns


def test_the_patch_embedding_starts_whole_and_white(tmp_path: Path, cache: Path) -> None:
    basis = cosine_basis(8, 24)
    assert torch.allclose(basis @ basis.T, torch.eye(24), atol=1e-5)
    trainable, _ = build(_loaded(tmp_path), len(PHANTOM_FINDINGS))
    films = _source(_loaded(tmp_path), cache, tmp_path / "work").films(10)
    set_structured_start(trainable.model, films)
    pixels = torch.from_numpy(films).float().div(127.5).sub(1)[:, None].expand(-1, 3, -1, -1)
    patches = trainable.model.vision_tower.embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
    deviation = patches.reshape(-1, 24).std(0)
    assert torch.allclose(deviation, torch.full((24,), 0.5), atol=0.02)


# --- recipes ---


@pytest.mark.parametrize("path", sorted((REPOSITORY / "training" / "recipes").glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_loads_and_opens_with_its_command(path: Path) -> None:
    if "[run]" not in path.read_text("utf-8"):
        pytest.skip("no recipe of the training loop")
    load_recipe(path)
    first = path.read_text("utf-8").splitlines()[0]
    assert re.match(r"# .*(?:training\.train|dicom-node train run) .*" + re.escape(path.name), first), first


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("[run]\nstepps = 3", r"run\.stepps"),
        ("[optimiser]\nrates = { tail = 1.0 }", r"optimiser\.rates"),
        ('[run]\ntune = "some"', r"run\.tune.*full"),
        ("[run]\nsteps = 0", r"run\.steps"),
    ],
)
def test_unknown_and_wrong_keys_are_refused_by_name(tmp_path: Path, change: str, named: str) -> None:
    section, _, line = change.partition("\n")
    text = TINY.format(objective="heads", steps=3, tune="full")
    key = line.split(" =")[0]
    text = re.sub(rf"^{key} = .*\n", "", text, flags=re.M).replace(f"{section}\n", f"{section}\n{line}\n")
    path = tmp_path / "bad.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=named):
        load_recipe(path)


def test_a_recipe_that_is_not_there_is_called_so_and_the_ones_to_copy_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"nix\.toml: no such file; recipes to copy lie in .*recipes") as told:
        load_recipe(tmp_path / "nix.toml")
    assert list(Path(str(told.value).rpartition(" in ")[2]).glob("*.toml"))


def test_the_rate_warms_up_and_falls_to_its_floor(tmp_path: Path) -> None:
    recipe = _loaded(tmp_path, steps=100)
    factors = [rate_factor(step, recipe) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 3)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] < 0.01
    assert all(a >= b for a, b in itertools.pairwise(factors[2:]))


# --- runs ---


def _losses(out: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text("utf-8").splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def _command(recipe: Path, out: Path, cache: Path) -> list[str]:
    parts = ["-m", "training.train", str(recipe), "--out", str(out), "--cache", str(cache), "--threads", "1"]
    return [sys.executable, *parts]


def test_a_killed_run_goes_on_exactly(tmp_path: Path, cache: Path) -> None:
    recipe = _recipe(tmp_path, steps=8)
    whole = tmp_path / "whole"
    train(load_recipe(recipe), whole, cache=cache, quiet=True)

    out = tmp_path / "killed"
    long_recipe = tmp_path / "long.toml"
    long_recipe.write_text(recipe.read_text("utf-8"), "utf-8")
    _, _, module, *arguments = _command(long_recipe, out, cache)
    process = ForkedProcess(module, arguments, log=tmp_path / "log", folder=REPOSITORY)
    wait_until(lambda: (out / "step-2").exists() or process.poll() is not None, seconds=120, what="a checkpoint")
    process.send_signal(signal.SIGKILL)
    process.wait()
    for partial in out.glob("partial-*"):  # as the kill may have left one: it must not be taken for a checkpoint
        assert newest_checkpoint(out) != partial
    train(load_recipe(long_recipe), out, cache=cache, quiet=True)
    expected, seen = _losses(whole), _losses(out)
    assert set(seen) == set(expected)
    assert all(seen[step] == pytest.approx(expected[step], abs=1e-4) for step in expected)
    first, second = (load_nvila(folder / "final")[0].state_dict() for folder in (whole, out))
    assert all(torch.allclose(first[name], second[name], atol=1e-4) for name in first)


def test_a_loss_that_is_no_number_stops_the_run_with_a_word(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _recipe(tmp_path)
    path.write_text(path.read_text("utf-8").replace("rate = 1e-3", "rate = 1e30"), "utf-8")
    with pytest.raises(TrainingError, match=r"step \d+: the loss is not a number.*optimiser\.rate"):
        train(load_recipe(path), tmp_path / "out", cache=cache, quiet=True)


@pytest.mark.parametrize(
    ("tune", "moved", "kept"),
    [
        ("projector", {"mm_projector", "longitudinal"}, {"vision_tower", "llm"}),
        ("lora", {"mm_projector", "longitudinal", "llm"}, {"vision_tower"}),
        ("full", {"mm_projector", "longitudinal", "llm", "vision_tower"}, set()),
    ],
)
def test_only_the_parts_that_are_tuned_move(
    tmp_path: Path, cache: Path, tune: str, moved: set[str], kept: set[str]
) -> None:
    start = tmp_path / "start"
    train(_loaded(tmp_path, steps=1), start, cache=cache, quiet=True)
    recipe = _loaded(tmp_path, steps=2, tune=tune)
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update={"start": str(start / "final")})})
    train(recipe, tmp_path / "out", cache=cache, quiet=True)
    before, after = (load_nvila(folder)[0] for folder in (start / "final", tmp_path / "out" / "final"))
    for part in moved | kept:
        old, new = (getattr(model, part).state_dict() for model in (before, after))
        same = all(torch.equal(old[name], new[name]) for name in old)
        assert same == (part in kept), part


def test_parts_have_their_own_rates(tmp_path: Path) -> None:
    path = _recipe(tmp_path)
    text = path.read_text("utf-8").replace("batch = 2", "batch = 2\nweight_decay = 0.1\nrates = { vision_tower = 0.1 }")
    path.write_text(text, "utf-8")
    recipe = load_recipe(path)
    groups = parameter_groups(build(recipe, len(PHANTOM_FINDINGS))[0], recipe)
    for part, rate in (("vision_tower", 1e-4), ("llm", 1e-3)):
        rates = [group["lr"] for group in groups if group["part"] == part]
        assert rates == pytest.approx([rate] * len(rates))
        assert rates
    assert all(group["weight_decay"] == 0 for group in groups if group["params"][0].ndim == 1)


def test_two_ranks_train_one_model(tmp_path: Path, cache: Path) -> None:
    recipe = _recipe(tmp_path, steps=3)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launch, "-m", *_command(recipe, tmp_path / "out", cache)[2:]]
    environment = os.environ | {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    ran = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert set(_losses(tmp_path / "out")) == {1, 2, 3}
    checkpoint = tmp_path / "out" / "step-2"
    assert {path.name for path in checkpoint.glob("random_states_*")} == {"random_states_0.pkl", "random_states_1.pkl"}
    alone = tmp_path / "alone"
    train(load_recipe(recipe), alone, cache=cache, quiet=True)
    assert _losses(alone) != _losses(tmp_path / "out"), "the second rank's samples took part"
    load_nvila(tmp_path / "out" / "final")
