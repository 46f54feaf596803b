"""The model, retraining, drift and feedback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from dicom_node.config.types import Seconds, Section
from dicom_node.weekly_window import parse_schedule

DEMO = "demo"
"""[model] source of the bundled checkpoint, whatever folders there are."""


def _finding_keys(value: tuple[str, ...]) -> tuple[str, ...]:
    if value:
        from model.ontology import ontology  # only for those who name findings: every command reads the configuration

        known = set(ontology().findings)
        unknown = [key for key in value if key not in known]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no finding; allowed are {', '.join(sorted(known))}")
    return value


STUDIES_BY_LOAD = 3
"""Studies analysed side by side where the load decides: each holds its images in memory, and a batch of three pairs
takes four fifths of the CPU of three pairs alone."""


class ModelSection(Section):
    """The model that answers, and where it runs."""

    source: str = Field(
        default=DEMO, description='"demo" (bundled, not for clinical use), a checkpoint folder, or a Hub id'
    )
    findings: Annotated[tuple[str, ...], AfterValidator(_finding_keys)] = Field(
        default=(),
        description="ontology keys that a model without a manifest may be asked; other checkpoints name theirs",
        examples=[["edema"]],
    )
    revision: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{40}$",
        description="the commit of a Hub id, which must be given; a branch is refused",
        examples=["0123456789abcdef0123456789abcdef01234567"],
    )
    backend: Literal["transformers", "openai"] = Field(
        default="transformers",
        description='"transformers": in this node; "openai": an OpenAI-compatible server at base_url',
    )
    trust_remote_code: bool = Field(default=False, description="run code that comes with a checkpoint")
    device: str = Field(default="cpu", description='"cpu", "cuda", "cuda:1", …')
    timeout_seconds: Seconds = Field(default=300.0, description="a pair that takes longer has failed")
    memory_limit_bytes: int | None = Field(
        default=None, gt=0, description="limit on the memory of the model's process", examples=[8000000000]
    )
    base_url: str | None = Field(
        default=None, description="address of the model server", examples=["http://127.0.0.1:30000/v1"]
    )
    api_key_file: Path | None = Field(default=None, description="file with the server's API key", examples=["key.txt"])
    scoring: Literal["top_logprobs", "token_ids", "prompt_logprobs"] = Field(
        default="top_logprobs",
        description='how closed questions are scored on a server; "token_ids" for vLLM (docs/remote-model.md)',
        examples=["top_logprobs"],
    )
    requests_at_once: int = Field(
        default=32,
        ge=1,
        le=1024,
        description="requests in flight to a model server, over all waiting pairs",
        json_schema_extra={"unit": "requests"},
    )
    min_answer_mass: float = Field(
        default=0.05,
        ge=0.0,
        lt=1.0,
        description="share of a served model's probability that the allowed answers must hold; below it: abstained",
        json_schema_extra={"unit": "share"},
    )
    experts: Path | None = Field(
        default=None,
        description="folder of a classifier, for checkpoints that were trained with its findings (docs/models.md)",
        examples=["experts"],
    )
    unfamiliar: Literal["refuse", "warn"] = Field(
        default="refuse",
        description="images beyond the checkpoint's limit of unfamiliarity: not analysed, or read with a warning",
    )
    studies_at_once: int = Field(
        default=0,
        ge=0,
        le=32,
        description="waiting studies analysed in one batch, one at a time of a patient; 0: by the load, up to 3",
        json_schema_extra={"unit": "studies"},
    )
    shadow: str = Field(
        default="",
        description="a checkpoint of data_dir/models that answers live studies without being reported",
        examples=["NAME"],
    )
    shadow_nice: int = Field(
        default=19,
        ge=0,
        le=19,
        description="scheduling priority of its process, 0 (as the others) to 19 (last)",
        json_schema_extra={"unit": "nice value"},
    )
    standby: bool = Field(
        default=True, description="keep the previous champion loaded, so that a rollback takes effect at once"
    )

    @property
    def most_studies_at_once(self) -> int:
        """The most studies that are analysed side by side."""
        return self.studies_at_once or STUDIES_BY_LOAD

    @model_validator(mode="after")
    def _remote_needs_url(self) -> ModelSection:
        if self.backend == "openai" and not self.base_url:
            raise ValueError('backend = "openai" needs base_url')
        if self.backend == "openai" and self.experts is not None:
            raise ValueError('experts needs backend = "transformers": a served model does not say how it was trained')
        return self


def _schedule(value: str) -> str:
    if value:
        parse_schedule(value)
    return value


def _timezone(value: str) -> str:
    try:
        if value:
            ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError('a time zone is an IANA name such as "Europe/Berlin"') from None
    return value


class RetrainSection(Section):
    """Training on the site's own studies (docs/retraining.md)."""

    recipe: Path | None = Field(
        default=None,
        description="training recipe; default: the one that comes with the node",
        examples=["retrain.toml"],
    )
    folder: Path | None = Field(
        default=None, description="folder of snapshots and runs; default: retrain in data_dir", examples=["retrain"]
    )
    promote: Literal["auto", "ask", "never"] = Field(
        default="ask", description='"auto": a better model serves at once; "ask": a person decides; "never"'
    )
    min_patients: int = Field(
        default=200,
        ge=1,
        description="with fewer labelled patients nothing is trained",
        json_schema_extra={"unit": "patients"},
    )
    frozen_patients: int = Field(
        default=100,
        ge=1,
        description="patients set aside for good to compare models on",
        json_schema_extra={"unit": "patients"},
    )
    frozen_share: float = Field(
        default=0.35,
        gt=0,
        lt=1,
        description="share of new patients that is set aside until that number is reached",
        json_schema_extra={"unit": "share"},
    )
    validate_share: float = Field(
        default=0.15,
        gt=0,
        lt=1,
        description="share of the training patients held back for calibration",
        json_schema_extra={"unit": "share"},
    )
    calibrate_with: tuple[str, ...] = Field(
        default=("phantom:100@8000000",),
        description="further data sets for calibration; [] for a model that never saw phantoms",
    )
    known_pairs: int = Field(
        default=30, ge=0, description="phantom pairs whose answers must stay right", json_schema_extra={"unit": "pairs"}
    )
    margin: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="no finding may get worse by more than this",
        json_schema_extra={"unit": "AUROC"},
    )
    alpha: float = Field(
        default=0.05,
        gt=0,
        lt=1,
        description="level of significance at which the main figure must improve",
        json_schema_extra={"unit": "probability"},
    )
    calibration_margin: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="the calibration error may rise by this much",
        json_schema_extra={"unit": "probability"},
    )
    consistency_margin: float = Field(
        default=0.02,
        ge=0,
        lt=1,
        description="agreement with the swapped pair and the same image twice may fall by this much",
        json_schema_extra={"unit": "share"},
    )
    consistency_floor: float = Field(
        default=0.9,
        ge=0,
        le=1,
        description="… or by more while it stays above this",
        json_schema_extra={"unit": "share"},
    )
    device: Literal["cpu", "cuda"] = Field(
        default="cpu", description='"cpu" or "cuda"; the serving model then shares the GPU'
    )
    threads: int = Field(
        default=1, ge=1, description="CPU threads of the training", json_schema_extra={"unit": "threads"}
    )
    nice: int = Field(
        default=10,
        ge=0,
        le=19,
        description="scheduling priority of the training process, 0 (as the node) to 19 (last)",
        json_schema_extra={"unit": "nice value"},
    )
    schedule: Annotated[str, AfterValidator(_schedule)] = Field(
        default="", description='when the node trains by itself, such as "mon-fri 01:00-05:00"; "": never'
    )
    timezone: Annotated[str, AfterValidator(_timezone)] = Field(
        default="", description='time zone of the schedule, such as "Europe/Berlin"; "": the machine\'s own'
    )


class DriftSection(Section):
    """Weekly figures of input and output, compared with their baseline (docs/model-lifecycle.md)."""

    baseline: Literal["first-weeks", "validation"] = Field(
        default="first-weeks",
        description='"first-weeks" at this site, or "validation": the set that the checkpoint was calibrated on',
    )
    baseline_weeks: int = Field(
        default=4,
        ge=1,
        le=52,
        description="first weeks with enough pairs that form the baseline",
        json_schema_extra={"unit": "weeks"},
    )
    min_pairs: int = Field(
        default=50, ge=20, description="a week with fewer pairs is not judged", json_schema_extra={"unit": "pairs"}
    )
    false_alarms: float = Field(
        default=0.01,
        gt=0,
        lt=0.5,
        description="chance of an alarm in a week in which nothing has changed",
        json_schema_extra={"unit": "probability"},
    )


class FeedbackSection(Section):
    """Radiologists' reports as feedback (docs/feedback.md)."""

    reports: bool = Field(default=True, description="read reports that arrive by C-STORE or HL7")
    labeller: Literal["rules", "llm"] = Field(
        default="rules", description='"rules", or "llm": a language model behind an OpenAI-compatible server'
    )
    llm_base_url: str | None = Field(
        default=None, description="address of that server", examples=["http://gpu1:8000/v1"]
    )
    llm_model: str = Field(default="", description="name of the model on it", examples=["reader"])
    llm_api_key_file: Path | None = Field(
        default=None, description="file with the server's API key", examples=["llm.key"]
    )
    llm_seconds: Seconds = Field(default=120.0, description="limit for one report")
    wait_days: float = Field(
        default=30.0, ge=0, description="a report without a matching study is tried again for this long"
    )

    @model_validator(mode="after")
    def _llm_needs_a_server(self) -> FeedbackSection:
        if self.labeller == "llm" and not (self.llm_base_url and self.llm_model):
            raise ValueError('labeller = "llm" needs llm_base_url and llm_model')
        return self
