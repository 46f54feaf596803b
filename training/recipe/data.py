"""The [data] section of a recipe: which sets, in what mix, shown how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.ontology import ontology
from training.instructions.streams import PredictionInputs, Stream

RULES = "rules"
"""long_answers that the rules of `training.instructions.rewrite` write."""


class SetSection(BaseModel):
    """One set of [data] sets. data: "KIND:SOURCE[,IMAGES]" as in docs/training-data.md, "phantom-cache:FOLDER" or
    "conversations:FOLDER". weight: times size^(1/temperature) is its share. by_patient: split by patient (with `salt`)
    instead of the set's own split. long_answers: file of `dicom-node train rewrite`, or "rules". streams: shares of
    this set, in the place of [data] streams. limit: at most this many records."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str
    weight: float = Field(default=1.0, gt=0)
    split: Literal["train", "validate", "test", "all"] = "train"
    by_patient: bool = False
    salt: str = Field(default="dicom-node", min_length=1)
    long_answers: str = ""
    streams: dict[Stream, float] | None = None
    limit: int | None = Field(default=None, gt=0)


class DataSection(BaseModel):
    """[data] kind "phantom": a cache folder of `training.phantom.cache` (`cache`, or --cache). kind "records": the mix
    of `sets`. kind "instructions": the folder of prepared conversations `instructions`. All go the same way.

    `streams` gives each stream its share of a set's sequences (a set that cannot teach one leaves its share to the
    others); `temperature` mixes the sets; `closed` and `templates` say whether our scored questions and LUMEN's
    templates are asked beside what is published, `difference` whether the open questions on change are (where it is not
    given: as `templates`); `negatives` bounds the turns on findings that are on no image (of one image; three times as
    many of a pair); `swap` and `same` vary pairs; `turns` is the most of one sequence. conversation: the turns follow
    one another, each seeing those before it; false: each question sees the images alone, as serving asks. max_images:
    more than 2 lets earlier images in. times: say the days between the images. expert: table of `dicom-node train
    expert`. features: folder of `training.data.features`, for a tower that does not learn. max_dropped: a larger share
    of unreadable samples stops the run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["phantom", "records", "instructions"] = "phantom"
    cache: str = ""
    negatives: int | None = Field(default=None, ge=0)
    difference: bool | None = None
    times: bool = False
    swap: float = Field(default=0.5, ge=0, le=1)
    same: float = Field(default=0.04, ge=0, le=1)
    turns: int = Field(default=18, gt=0)
    workers: int = Field(default=0, ge=0)
    max_length: int = Field(default=4096, gt=0)

    sets: tuple[SetSection, ...] = ()
    instructions: str = ""
    temperature: float = Field(default=1.0, ge=1)
    streams: dict[Stream, float] = Field(default_factory=lambda: {Stream.DIAGNOSTIC: 0.5, Stream.DIFFERENCE: 0.5})
    closed: bool = True
    templates: bool = True
    keep_negatives: float = Field(default=1.0, ge=0, le=1)
    prediction_inputs: PredictionInputs = PredictionInputs.PRIOR_ONLY
    expert: str = ""
    expert_dropout: float = Field(default=0.5, ge=0, le=1)
    context: bool = False
    context_dropout: float = Field(default=0.5, ge=0, le=1)
    max_images: int = Field(default=2, ge=2)
    conversation: bool = False
    augment: bool = True
    findings: tuple[str, ...] = ()
    image_cache: str = ""
    features: str = ""
    max_dropped: float = Field(default=0.05, ge=0, le=1)

    @field_validator("sets", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        """A set may be given by its name alone."""
        return (
            [{"data": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )

    @field_validator("streams")
    @classmethod
    def _shared(cls, value: dict[Stream, float]) -> dict[Stream, float]:
        if not value or min(value.values()) < 0 or sum(value.values()) <= 0:
            raise ValueError("the shares of the streams are at least 0 and not all 0")
        return value

    @field_validator("findings")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if foreign := sorted(set(value) - set(ontology().findings)):
            raise ValueError(f"findings {foreign} are not in the ontology; there are {', '.join(ontology().findings)}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> DataSection:
        if self.kind == "records" and not self.sets:
            raise ValueError('kind "records" needs sets, for example sets = ["nih:FOLDER"]')
        if self.kind == "instructions" and not self.instructions:
            raise ValueError('kind "instructions" needs instructions, a folder of dicom-node train prepare')
        return self
