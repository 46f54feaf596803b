"""The [data] section of a recipe: which sets, in what mix, shown how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from model.ontology import ontology
from training.instructions.streams import PredictionInputs, Stream

RULES = "rules"
"""long_answers that the rules of `training.instructions.rewrite` write."""


class SetSection(BaseModel):
    """One set of [data] sets; a set may also be given by its name alone."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str = Field(
        description='`"KIND:SOURCE[,IMAGES]"` as in docs/training-data.md, `"phantom-cache:FOLDER"` or '
        '`"conversations:FOLDER"`.'
    )
    weight: float = Field(default=1.0, gt=0, description="Its share of the mix ∝ weight · size^(1/temperature).")
    split: Literal["train", "validate", "test", "all"] = Field(default="train", description="Split that is trained on.")
    by_patient: bool = Field(default=False, description="Split by patient instead of the set's own split.")
    salt: str = Field(default="dicom-node", min_length=1, description="Of the hash that splits by patient.")
    long_answers: str = Field(default="", description="File of `dicom-node train rewrite`, or `rules`.")
    streams: dict[Stream, float] | None = Field(
        default=None, description="Shares of the streams in this set, instead of those of [data]."
    )
    limit: int | None = Field(default=None, gt=0, description="At most this many records.")


class DataSection(BaseModel):
    """The data to learn from, its mix, and the way a sample is shown. All kinds go the same way."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["phantom", "records", "instructions"] = Field(
        default="phantom",
        description="`phantom`: the rendered pairs of `cache`; `records`: the mix of `sets`; `instructions`: prepared "
        "conversations.",
    )
    cache: str = Field(default="", description="Folder of `python -m training.phantom.cache`; `--cache` replaces it.")
    negatives: int | None = Field(
        default=None,
        ge=0,
        description="At most this many turns on findings that are not there, of one image; of a pair, 3 times.",
    )
    difference: bool | None = Field(
        default=None, description="Ask the open questions on change; not given: as `templates`."
    )
    times: bool = Field(default=False, description="Say the days between the images, where their dates are known.")
    swap: float = Field(default=0.5, ge=0, le=1, description="Share of the pairs that are shown in the other order.")
    same: float = Field(default=0.04, ge=0, le=1, description="Share of the pairs with the image as its own prior.")
    turns: int = Field(default=18, gt=0, description="Most turns of one sequence.")
    workers: int = Field(default=0, ge=0, description="Processes that prepare samples; 0: the training's own.")
    max_length: int = Field(default=4096, gt=0, description="Most tokens of one sequence.")

    sets: tuple[SetSection, ...] = Field(default=(), description="With `records`: the sets.")
    instructions: str = Field(default="", description="With `instructions`: folder of `dicom-node train prepare`.")
    temperature: float = Field(
        default=1.0, ge=1, description="1 mixes the sets by their sizes, a large number by their weights alone."
    )
    streams: dict[Stream, float] = Field(
        default_factory=lambda: {Stream.DIAGNOSTIC: 0.5, Stream.DIFFERENCE: 0.5},
        description="Share of each stream (`diagnostic`, `difference`, `prediction`, `long`) in a set's sequences; a "
        "set that cannot teach one leaves its share to the others.",
    )
    closed: bool = Field(default=True, description="Ask this project's scored questions beside what is published.")
    templates: bool = Field(default=True, description="Ask LUMEN's templates beside what is published.")
    keep_negatives: float = Field(default=1.0, ge=0, le=1, description="Share of the absent findings that is kept.")
    prediction_inputs: PredictionInputs = Field(
        default=PredictionInputs.PRIOR_ONLY,
        description="Images of the stream `prediction`: the prior alone, which makes it a prediction, or both.",
    )
    expert: str = Field(
        default="",
        description="Table of `dicom-node train expert` (a CSV file): the classifier's probabilities are told in the "
        "prompt. Not the classifier's folder, which only that command reads.",
    )
    expert_dropout: float = Field(default=0.5, ge=0, le=1, description="Share of the sequences without the expert.")
    context: bool = Field(default=False, description="Say age, sex, indication and labs, where the set has them.")
    context_dropout: float = Field(default=0.5, ge=0, le=1, description="Share of the sequences without the context.")
    max_images: int = Field(default=2, ge=2, description="More than 2 shows earlier images first, oldest first.")
    conversation: bool = Field(
        default=False,
        description="true: the turns follow one another, each seeing those before it, as LUMEN has them; false: each "
        "question sees the images alone, as serving asks.",
    )
    augment: bool = Field(default=True, description="Vary the images of the training.")
    findings: tuple[str, ...] = Field(default=(), description="Only these findings; empty: all that the sets teach.")
    image_cache: str = Field(default="", description="Folder for decoded squares: worth it from the second epoch on.")
    features: str = Field(
        default="", description="Folder of `python -m training.data.features`, for a tower that does not learn."
    )
    max_dropped: float = Field(
        default=0.05, ge=0, le=1, description="A larger share of unreadable samples ends the run."
    )

    @field_validator("sets", mode="before")
    @classmethod
    def _accept_name(cls, value: Any) -> Any:
        """A set may be given by its name alone."""
        return (
            [{"data": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value
        )

    @field_validator("streams")
    @classmethod
    def _check_shares(cls, value: dict[Stream, float]) -> dict[Stream, float]:
        if not value or min(value.values()) < 0 or sum(value.values()) <= 0:
            raise ValueError("the shares of the streams are at least 0 and not all 0")
        return value

    @field_validator("findings")
    @classmethod
    def _require_known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
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
