"""The run of `dicom-node predict`: list, read headers, plan, ask, in shards that survive whatever ends the run."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Final

from dicom_node.bulk.mappers import Placement, open_mapper
from dicom_node.bulk.run import ShardSizes, run_shards
from dicom_node.bulk.shards import ShardFolder, digest_of
from dicom_node.bulk.work import Batch, DirectMapper, Mapper
from dicom_node.config import ModelSection, Settings
from dicom_node.predict.headers import FileHeader, HeaderWork, encode_headers
from dicom_node.predict.inputs import InputFile, list_inputs
from dicom_node.predict.locations import BLOCKS, Locations
from dicom_node.predict.plan import StudyItem, plan_studies
from dicom_node.predict.rows import FORMAT, encode_rows, pyarrow_of
from dicom_node.predict.work import AnalysisRules, IdentityWork, PredictWork
from dicom_node.priors import policy_of
from model.checkpoints.registry import resolve_source
from model.errors import ModelError
from model.schema import ModelIdentity

HEADERS: Final = "_headers"
OBJECTS: Final = "_objects"
"""Folder of results in which the objects of a bucket are kept until the run is done."""
HEADER_CUT: Final = ShardSizes(batch=64, shard=16)
HEADER_SECONDS: Final = 60.0
STUDY_SECONDS: Final = 300.0
"""To read a study and its priors, beside the model's [model] timeout_seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictOptions:
    """The spread of a run over processes or a cluster.

    processes: 0: by cores and memory. batch: studies read and asked together. shard: studies of one file. ray: address
    of a cluster, "" for this machine. answerers: actors with a model; 0: by the cluster.
    """

    processes: int = 0
    batch: int = 4
    shard: int = 64
    ray: str = ""
    answerers: int = 0

    def cut(self) -> ShardSizes:
        """The batches and shards of these options."""
        return ShardSizes(batch=self.batch, shard=max(1, self.shard // self.batch))

    def placement(self) -> Placement:
        """The place at which these options have the run take place."""
        return Placement(ray=self.ray, processes=self.processes, answerers=self.answerers)


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictSummary:
    """The outcome of a run.

    images: outcome → images (of an input error: files). shards: in all. kept: those that an earlier start had finished.
    """

    out: Path
    studies: int
    images: Counter[str]
    shards: int
    kept: int
    identity: ModelIdentity


def predict(
    inputs: Sequence[str],
    out: Path,
    *,
    settings: Settings,
    options: PredictOptions,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> PredictSummary:
    """Predict every study of `inputs` into Parquet files of `out`; finished shards of an earlier start are kept.

    Raises UsageError where inputs are wrong, BulkError where the run cannot go on; the same command then goes on.
    """
    pyarrow_of()
    out.mkdir(parents=True, exist_ok=True)
    files = list_inputs(inputs, Locations(settings.storage), out=out)
    policy = policy_of(settings)
    # The machines of a cluster need not share `out`, and nobody would tidy a folder there.
    cache = None if options.ray else out / OBJECTS
    shutil.rmtree(out / OBJECTS / BLOCKS, ignore_errors=True)
    rules = AnalysisRules(
        model=settings.model,
        storage=settings.storage,
        policy=policy,
        cache=cache,
        language=settings.node.language,
        threads=None if is_on_gpu(settings.model) else 1,
    )
    work = HeaderWork(storage=settings.storage, policy=policy, cache=cache)
    headers = _read_headers(files, out / HEADERS, work, options, progress)
    items = plan_studies(files, headers, look_back_days=policy.look_back_days)
    with open_mapper(
        options.placement(),
        batches=options.cut().count_batches(len(items)),
        item_seconds=STUDY_SECONDS + settings.model.timeout_seconds,
        is_on_gpu=is_on_gpu(settings.model),
        weights=_weights(settings.model),
    ) as mapper:
        summary = _predict_items(items, rules, out, files, mapper, options, progress)
    shutil.rmtree(out / OBJECTS, ignore_errors=True)
    return summary


def _predict_items(
    items: Sequence[StudyItem],
    rules: AnalysisRules,
    out: Path,
    files: Sequence[InputFile],
    mapper: Mapper,
    options: PredictOptions,
    progress: Callable[[str, int, int], None],
) -> PredictSummary:
    identity = _identity(rules, mapper)
    version = metadata.version("dicom-node")
    work = PredictWork(rules=rules, identity=identity, node_version=version)
    facts = {
        "inputs": digest_of(f"{file}" for file in files),
        "model": f"{identity.name} {identity.version} ({identity.device_uid})",
        "rules": digest_of(iter((repr(rules.policy), rules.language, rules.model.unfamiliar))),
        "dicom-node": version,
        "format": FORMAT,
        "cut": f"{options.batch} studies a batch, {options.shard} a shard",
    }
    paths, kept = run_shards(
        work,
        items,
        ShardFolder(folder=out, suffix=".parquet", facts=facts),
        mapper,
        cut=options.cut(),
        encode=encode_rows,
        progress=lambda done, total: progress("predicting studies", done, total),
    )
    return PredictSummary(
        out=out,
        studies=sum(not item.fault for item in items),
        images=_count_outcomes(paths),
        shards=len(paths),
        kept=kept,
        identity=identity,
    )


def is_on_gpu(section: ModelSection) -> bool:
    """Tell whether each loaded model takes a GPU."""
    return section.backend == "transformers" and section.device.startswith("cuda")


def _read_headers(
    files: Sequence[InputFile],
    folder: Path,
    work: HeaderWork,
    options: PredictOptions,
    progress: Callable[[str, int, int], None],
) -> list[FileHeader]:
    facts = {"inputs": digest_of(f"{file}" for file in files), "rules": digest_of(iter((repr(work.policy),)))}
    is_few = len(files) <= HEADER_CUT.batch
    placement, batches = options.placement(), HEADER_CUT.count_batches(len(files))
    with (
        nullcontext(DirectMapper())
        if is_few
        else open_mapper(replace(placement, answerers=0), batches=batches, item_seconds=HEADER_SECONDS)
    ) as mapper:
        paths, _ = run_shards(
            work,
            files,
            ShardFolder(folder=folder, suffix=".jsonl", facts=facts),
            mapper,
            cut=HEADER_CUT,
            encode=encode_headers,
            progress=lambda done, total: progress("reading headers", done, total),
        )
    return [FileHeader.from_json(line) for path in paths for line in path.read_text("utf-8").splitlines()]


def _identity(rules: AnalysisRules, mapper: Mapper) -> ModelIdentity:
    """The model that will answer, asked where it will run."""
    [(_, [identity])] = mapper.map(IdentityWork(rules=rules), [Batch(number=0, items=(None,))])
    answerer: ModelIdentity = identity
    return answerer


def _weights(section: ModelSection) -> Path | None:
    """The folder of the checkpoint that each process loads; None where there is none on this disk."""
    if section.backend != "transformers":
        return None
    try:
        return Path(resolve_source(section.source))
    except ModelError:
        return None


def _count_outcomes(paths: Sequence[Path]) -> Counter[str]:
    """Images by outcome; a file that no study could be made of counts as one."""
    arrow, counts = pyarrow_of(), Counter[str]()
    for path in paths:
        table = arrow.parquet.read_table(path, columns=["sop_instance_uid", "location", "outcome"])
        columns = (table.column(name).to_pylist() for name in ("outcome", "sop_instance_uid", "location"))
        counts.update(outcome for outcome, _, _ in set(zip(*columns, strict=True)))
    return counts
