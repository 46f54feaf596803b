"""From the [data] section of a recipe to a source of samples."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from model.errors import ModelError
from training.data.features import Features
from training.data.index import SetIndex, SetSpec, set_index, union
from training.data.mixed_source import MixedSource
from training.data.mixing import set_shares
from training.data.pictures import Pictures
from training.data.pools import Pool, RecordPool, Variation
from training.data.prepared import PreparedIndex, PreparedPool, index_prepared
from training.instructions.rewrite import load_answers
from training.instructions.streams import ExpertText, InstructionOptions, Stream
from training.phantom.render import PHANTOM_FINDINGS
from training.readers.mimic import SPLIT_WORDS
from training.recipe.data import RULES, DataSection, SetSection
from training.recipe.recipe import Objective, Recipe

CONVERSATIONS = "conversations:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a source may write and what it makes. work: folder for indexes. fresh: make them even where they are there.
    size: side of the pictures. cache: a folder of phantoms in the place of the recipe's sets."""

    work: Path
    size: int
    fresh: bool = True
    cache: Path | None = None
    quiet: bool = True


def source_of(recipe: Recipe, place: Place) -> MixedSource:
    """The data of a recipe: P(set) ∝ weight · size^(1/temperature), then the stream by its share.

    Raises ModelError or DataError where a set cannot be read or gives nothing.
    """
    data, sections = recipe.data, sets_of(recipe.data, place.cache)
    opened = [_open(section, recipe, place) for section in sections]
    findings = data.findings or union([each.findings for each in opened])
    if not recipe.heads.weight and not data.findings and not findings:
        findings = tuple(PHANTOM_FINDINGS)  # nothing is learned of them; the heads must have some number of outputs
    shown = PoolPresentation(
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
        features=Features(folder=Path(data.features)) if data.features else None,
    )
    groups = [each.pools(shown) for each in opened]
    sizes = [sum(pool.size for pool, _ in group) for group in groups]
    of_sets = set_shares(sizes, [section.weight for section in sections], data.temperature)
    pools, shares, about = [], [], [line for each in opened for line in each.lines()]
    for group, of_set in zip(groups, of_sets, strict=True):
        total = sum(share for _, share in group)
        for pool, share in group:
            pools.append(pool)
            shares.append(of_set * share / total)
            about.append(f"{shares[-1]:6.1%} of the samples: {pool.name} ({pool.size} items)")
    taught: Counter[str] = Counter()
    for each in opened:
        taught.update(each.count_taught())
    return MixedSource(
        pools=pools, shares=shares, seed=recipe.run.seed, findings=findings, about=tuple(about), taught=taught
    )


def sets_of(data: DataSection, cache: Path | None = None) -> tuple[SetSection, ...]:
    """The sets that a recipe names in any of its forms; cache: a folder of phantoms in the place of them all."""
    if cache is not None:
        return (SetSection(data=f"phantom-cache:{cache}"),)
    if data.kind == "phantom":
        return (SetSection(data=f"phantom-cache:{data.cache}"),)
    if data.kind == "instructions":
        return (SetSection(data=f"{CONVERSATIONS}{data.instructions}"),)
    return data.sets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PoolPresentation:
    """The presentation of items, common to all pools of a recipe."""

    recipe: Recipe
    variation: Variation
    pictures: Pictures
    expert: ExpertText | None
    features: Features | None = None


class OpenedSet(Protocol):
    """A set of a recipe that was gone through."""

    @property
    def findings(self) -> tuple[str, ...]:
        """Ontology keys that some item knows anything of."""
        ...

    def pools(self, shown: PoolPresentation) -> list[tuple[Pool, float]]:
        """Its pools, each with its share in it. Raises ModelError where no wanted stream can be taught."""
        ...

    def count_taught(self) -> Counter[str]:
        """The number of its answers to each closed question (`training.instructions.coverage`)."""
        ...

    def lines(self) -> list[str]:
        """Its contents and what was left out of it, in lines."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordSet:
    """Records of a reader. streams: the share of each stream in it."""

    section: SetSection
    index: SetIndex
    options: InstructionOptions
    streams: Mapping[Stream, float]

    @property
    def findings(self) -> tuple[str, ...]:
        return self.index.findings

    def pools(self, shown: PoolPresentation) -> list[tuple[Pool, float]]:
        rules = self.section.long_answers in ("", RULES)
        answers = {} if rules else load_answers(Path(self.section.long_answers))
        weighted: list[tuple[Pool, float]] = [
            (
                RecordPool(
                    name=f"{self.section.data}, {stream.value}",
                    index=self.index,
                    stream=stream,
                    options=self.options,
                    variation=shown.variation,
                    pictures=shown.pictures,
                    expert=shown.expert,
                    features=shown.features,
                    long_answers=answers if stream is Stream.LONG else {},
                ),
                share,
            )
            for stream, share in self.streams.items()
            # A stream that no record can teach has nothing to draw from.
            if share and len(self.index.members[stream])
        ]
        if not weighted:
            names = ", ".join(stream.value for stream, share in self.streams.items() if share)
            raise ModelError(f"{self.section.data} can teach none of the streams {names}:\n" + "\n".join(self.lines()))
        return weighted

    def count_taught(self) -> Counter[str]:
        return self.index.count_taught([stream for stream, share in self.streams.items() if share])

    def lines(self) -> list[str]:
        return self.index.lines()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedSet:
    """Prepared conversations. The shares of their streams are those of the folder."""

    section: SetSection
    index: PreparedIndex
    turns: int
    findings: tuple[str, ...] = ()

    def pools(self, shown: PoolPresentation) -> list[tuple[Pool, float]]:
        return [
            (
                PreparedPool(
                    name=f"{self.section.data}, {stream.value}",
                    index=self.index,
                    stream=stream,
                    turns=self.turns,
                    variation=shown.variation,
                    pictures=shown.pictures,
                ),
                float(len(members)),
            )
            for stream, members in self.index.members.items()
            if len(members)
        ]

    def count_taught(self) -> Counter[str]:
        return self.index.count_taught(())

    def lines(self) -> list[str]:
        return self.index.lines()


def _open(section: SetSection, recipe: Recipe, place: Place) -> OpenedSet:
    def say(done: int) -> None:
        if not place.quiet:
            print(f"reading {section.data}: {done} records", file=sys.stderr, flush=True)

    data = recipe.data
    if section.data.startswith(CONVERSATIONS):
        folder = Path(section.data.removeprefix(CONVERSATIONS))
        index = index_prepared(folder, place.work, fresh=place.fresh, progress=say)
        return PreparedSet(section=section, index=index, turns=data.turns)
    spec = SetSpec(
        data=section.data,
        split=None if section.split == "all" else SPLIT_WORDS[section.split],
        salt=section.salt if section.by_patient else "",
        long_answers="" if section.long_answers == RULES else section.long_answers,
        limit=section.limit,
    )
    options = replace(instruction_options(data), rule_answers=section.long_answers == RULES)
    return RecordSet(
        section=section,
        index=set_index(spec, options, place.work, fresh=place.fresh, progress=say),
        options=options,
        streams=section.streams or data.streams,
    )


def instruction_options(data: DataSection) -> InstructionOptions:
    """The options that decide which turns a record gives."""
    return InstructionOptions(
        streams=frozenset(Stream),
        prediction_inputs=data.prediction_inputs,
        closed=data.closed,
        lumen=data.templates,
        difference=data.difference,
        times=data.times,
        negatives=data.negatives,
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
