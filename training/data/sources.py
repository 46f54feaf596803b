"""From the [data] section of a recipe to a source of samples."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from model.errors import ModelError
from training.data.index import SetIndex, SetSpec, set_index, union
from training.data.mixed_source import MixedSource
from training.data.mixing import set_shares
from training.data.pictures import Pictures
from training.data.pools import PhantomPool, Pool, RecordPool, Variation
from training.data.prepared import PreparedIndex, PreparedPool, prepared_index
from training.data.samples import PhantomSource, SampleSource, TurnOptions
from training.instructions.coverage import note_taught
from training.instructions.rewrite import load_answers
from training.instructions.streams import ExpertText, InstructionOptions, Stream
from training.phantom.render import PHANTOM_FINDINGS
from training.readers.mimic import SPLIT_WORDS
from training.recipe.data import DataSection, SetSection
from training.recipe.recipe import Objective, Recipe

PHANTOM_CACHE, CONVERSATIONS = "phantom-cache:", "conversations:"
PHANTOMS_ASKED = 100
"""Samples of a phantom cache that are looked at to see what it teaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a source may write and what it makes. work: folder for indexes. fresh: make them anew. size: side of the
    pictures. cache: a phantom cache that replaces the recipe's."""

    work: Path
    size: int
    fresh: bool = True
    cache: Path | None = None
    quiet: bool = True


def source_of(recipe: Recipe, place: Place) -> SampleSource:
    """The data of a recipe. Raises ModelError or DataError where a set cannot be read or gives nothing."""
    if recipe.data.kind == "phantom":
        return phantom_source(recipe, place.cache or Path(recipe.data.cache))
    return mixed_source(recipe, place)


def phantom_source(recipe: Recipe, folder: Path) -> PhantomSource:
    """Phantom pairs alone."""
    names = {f.name for f in fields(TurnOptions)}
    options = TurnOptions(**{k: v for k, v in recipe.data.model_dump().items() if k in names})
    heads_only = recipe.run.objective is Objective.HEADS
    return PhantomSource(folder=folder, seed=recipe.run.seed, options=options, heads_only=heads_only)


def mixed_source(recipe: Recipe, place: Place) -> MixedSource:
    """Kinds "records" and "instructions": P(set) ∝ weight · size^(1/temperature), then the stream by its share."""
    data, sets = recipe.data, recipe.data.sets
    if data.kind == "instructions":
        sets = (SetSection(data=f"{CONVERSATIONS}{data.instructions}"),)
    opened = [_open(section, recipe, place) for section in sets]
    findings = data.findings or union([_findings(index) for index in opened])
    if not recipe.heads.weight and not data.findings and not findings:
        findings = tuple(PHANTOM_FINDINGS)  # nothing is learned of them; the heads must have some number of outputs
    shown = _Shown(
        recipe=recipe,
        variation=Variation(
            swap=data.swap,
            same=data.same,
            conversation=data.conversation,
            augment=data.augment,
            turns=recipe.run.objective is Objective.INSTRUCTIONS,
            findings=findings if recipe.heads.weight else (),
        ),
        pictures=Pictures(size=place.size, cache=Path(data.image_cache) if data.image_cache else None),
        expert=expert_of(data),
    )
    groups = [_pools(section, index, shown) for section, index in zip(sets, opened, strict=True)]
    sizes = [sum(pool.size for pool, _ in group) for group in groups]
    of_sets = set_shares(sizes, [section.weight for section in sets], data.temperature)
    pools, shares, about = [], [], [line for index in opened for line in _lines(index)]
    for group, of_set in zip(groups, of_sets, strict=True):
        total = sum(share for _, share in group)
        for pool, share in group:
            pools.append(pool)
            shares.append(of_set * share / total)
            about.append(f"{shares[-1]:6.1%} of the samples: {pool.name} ({pool.size} items)")
    taught: Counter[str] = Counter()
    for index in opened:
        taught.update(_taught(index, data))
    return MixedSource(
        pools=pools, shares=shares, seed=recipe.run.seed, findings=findings, about=tuple(about), taught=taught
    )


_Index = SetIndex | PreparedIndex | PhantomSource


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Shown:
    """How all pools of a recipe show their items."""

    recipe: Recipe
    variation: Variation
    pictures: Pictures
    expert: ExpertText | None


def _open(section: SetSection, recipe: Recipe, place: Place) -> _Index:
    def say(done: int) -> None:
        if not place.quiet:
            print(f"reading {section.data}: {done} records", file=sys.stderr, flush=True)

    if section.data.startswith(PHANTOM_CACHE):
        return phantom_source(recipe, Path(section.data.removeprefix(PHANTOM_CACHE)))
    if section.data.startswith(CONVERSATIONS):
        folder = Path(section.data.removeprefix(CONVERSATIONS))
        return prepared_index(folder, place.work, fresh=place.fresh, progress=say)
    spec = SetSpec(
        data=section.data,
        split=None if section.split == "all" else SPLIT_WORDS[section.split],
        salt=section.salt if section.by_patient else "",
        long_answers=section.long_answers,
        limit=section.limit,
    )
    return set_index(spec, instruction_options(recipe.data), place.work, fresh=place.fresh, progress=say)


def _findings(index: _Index) -> tuple[str, ...]:
    return () if isinstance(index, PreparedIndex) else index.findings


def _taught(index: _Index, data: DataSection) -> Counter[str]:
    if not isinstance(index, PhantomSource):
        return index.taught([stream for stream, share in data.streams.items() if share])
    counts: Counter[str] = Counter()  # of some of its samples, the same every time
    for number in range(PHANTOMS_ASKED):
        note_taught(counts, index.sample(number).turns)
    return Counter({key: count * index.pairs // PHANTOMS_ASKED for key, count in counts.items()})


def _lines(index: _Index) -> list[str]:
    return [] if isinstance(index, PhantomSource) else index.lines()


def _pools(section: SetSection, index: _Index, shown: _Shown) -> list[tuple[Pool, float]]:
    """The pools of one set, each with its share in it. Raises ModelError where no wanted stream can be taught."""
    name, data = section.data, shown.recipe.data
    if isinstance(index, PhantomSource):
        if shown.variation.findings and shown.variation.findings != index.findings:
            raise ModelError(f"{name}: its heads' findings are those of the phantoms; set data.findings to them")
        return [(PhantomPool(name=name, source=index), 1.0)]
    common: dict[str, Any] = {"variation": shown.variation, "pictures": shown.pictures}
    made: list[tuple[Pool, float]] = []
    if isinstance(index, PreparedIndex):  # the shares of a prepared folder are its own
        for stream, members in index.members.items():
            if len(members):
                prepared = PreparedPool(
                    name=f"{name}, {stream.value}", index=index, stream=stream, turns=data.turns, **common
                )
                made.append((prepared, float(len(members))))
        return made
    answers = load_answers(Path(section.long_answers)) if section.long_answers else {}
    for stream, share in data.streams.items():
        if share and len(index.members[stream]):
            records = RecordPool(
                name=f"{name}, {stream.value}",
                index=index,
                stream=stream,
                options=instruction_options(data),
                expert=shown.expert,
                long_answers=answers if stream is Stream.LONG else {},
                **common,
            )
            made.append((records, share))
    if not made:
        wanted = ", ".join(stream.value for stream, share in data.streams.items() if share)
        raise ModelError(f"{name} can teach none of the streams {wanted}:\n" + "\n".join(_lines(index)))
    return made


def instruction_options(data: DataSection) -> InstructionOptions:
    """Which turns a record gives."""
    return InstructionOptions(
        streams=frozenset(Stream),
        prediction_inputs=data.prediction_inputs,
        closed=data.closed,
        lumen=data.templates,
        keep_negatives=data.keep_negatives,
        max_turns=data.turns,
        expert=bool(data.expert),
        expert_dropout=data.expert_dropout,
        context=data.context,
        context_dropout=data.context_dropout,
        max_images=data.max_images,
    )


def expert_of(data: DataSection) -> ExpertText | None:
    """The expert's texts, None where there is none."""
    if not data.expert:
        return None
    from training.data.expert_table import ExpertTable  # brings the expert, and so torch, along

    return ExpertTable.read(Path(data.expert)).text
