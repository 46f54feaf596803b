"""Write docs/model-card.md from the bundled checkpoint's manifest; the form is CHAI's Applied Model Card.

    python scripts/make_model_card.py [--check]

`--check` writes nothing and ends with status 1 where the file is not current.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from model.checkpoints.manifest import read_manifest
from model.ontology import ontology

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = REPOSITORY / "docs" / "model-card.md"
TEMPLATE = "model_card.md.j2"
PHANTOM_FIGURES = {
    "presence_auroc": "presence AUROC, mean over findings",
    "change_f1": "change, macro F1 over six answers",
    "side_accuracy": "side, of findings rightly called present",
    "swap_consistency": "other order gives the inverse change",
    "same_image_consistency": "same image twice: stable or none",
    "presence_ece": "expected calibration error, presence",
    "change_ece": "expected calibration error, stated changes",
}


def card() -> str:
    """The whole page; every number comes from the manifest."""
    manifest = read_manifest(REPOSITORY / "model" / "demo")
    phantoms = next(figures for name, figures in manifest.metrics.items() if name.startswith("phantom:"))
    measured = next(figures for name, figures in manifest.metrics.items() if name.startswith("nih"))
    films = manifest.films
    assert films is not None, "the bundled checkpoint reads films of people"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, autoescape=False
    )
    environment.filters["figure"] = figure
    return environment.get_template(TEMPLATE).render(
        manifest=manifest,
        size_mb=round(sum(entry.size for entry in manifest.files.values()) / 1e6),
        names=[ontology().findings[key].name for key in manifest.findings],
        phantom_pairs=phantoms["pairs"],
        phantom_figures=[(words, phantoms["figures"][key]) for key, words in PHANTOM_FIGURES.items()],
        films=[film_row(key, rule, measured) for key, rule in films.findings.items()],
        learned_on=films.learned_on,
        backbone=films.backbone,
        prognosis=manifest.prognosis_evidence,
    )


def film_row(key: str, rule: Any, measured: Mapping[str, Any]) -> dict[str, Any]:
    """One finding on films of people: what may be stated, and its figures on the dev patients."""
    stated = "presence and change" if rule.change_stated else "presence" if rule.stated else "nothing"
    return {
        "name": ontology().findings[key].name,
        "stated": stated,
        "marks": measured.get("presence, radiologists", {}).get(key),
        "reports": measured.get("presence, reports", {}).get(key),
        "change": measured.get("change", {}).get("worse against better", {}).get(key),
    }


def figure(value: dict[str, Any] | None) -> str:
    """A figure with its 95 % interval; "–" for none."""
    if not value or value.get("value") is None:
        return "–"
    return f"{value['value']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def main() -> int:
    """Write or check the page; returns the exit status."""
    text = card()
    if "--check" not in sys.argv:
        TARGET.write_text(text, "utf-8")
    elif not TARGET.exists() or TARGET.read_text("utf-8") != text:
        sys.stderr.write(f"{TARGET.name} is not current: python scripts/make_model_card.py\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
