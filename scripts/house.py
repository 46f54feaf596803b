"""Measure the house: rooms, names, docstrings and comments of the three packages, beside the ranges of known codebases.

    python scripts/house.py [ROOT] [--list MEASURE] [--under FOLDER]

ROOT is a checkout, by default this one. --list prints the places behind one measure: verbs, participles, docstrings,
classes, variables. docs/architecture.md holds the figures and what they were before the house was rebuilt.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("dicom_node", "model", "training")
ANCHORS = {
    "modules flat in the root": "0 to 28",
    "functions that begin with a verb": "41 to 89 %",
    "functions named by a participle": "0.2 to 3.3 %",
    "docstrings that open What, Which, Whether or How": "0 to 1 %",
    "vague variables per 1,000 lines": "0 to 0.1",
    "class names defined more than once": "not measured",
    "comment lines per 1,000": "23 to 120",
    "lines of a file, median / longest": "20 to 568 / 275 to 9623",
}
"""Of highdicom, hi-ml-multimodal, procrastinate, pynetdicom, starlette and nanochat."""

VERBS_TEXT = """
abandon abort accept acquire adapt add adjust advance aggregate align allow analyse analyze announce answer
append apply archive ask assemble assert assign associate attach audit augment balance batch begin believe
bind block blur boil bring build cache calculate calibrate call can cancel carry cast catch centre change
check choose claim classify clean clear clip close collapse collate collect combine commit compare compile
complete compose composite compress compute configure confirm connect consider consume contains continue
convert copy correct count cover create crop cut cycle deal decide decline decode decrease dedupe defer define
delete deliver demote derive describe deserialize detach detect determine digest disable discard dispatch
display distribute divide do does double download drain draw drop dump embed emit enable encapsulate encode
encrypt end enforce enqueue ensure enter erase escape establish estimate evaluate evict examine exchange
exclude execute exit expand expect expire explain export expose extend extract fail feed fetch fill filter
find finish fit fix flag flatten flip flush fold follow forget fork format forward free freeze fsync gate
gather generate get give go grade group grow guard halt handle has hash have hide hold identify ignore import
include increase increment index infer inherit init initialize inject insert inspect install interpolate
interpret interrupt intersect invert invoke is issue iterate join judge keep kill label launch leave lengthen
limit link list listen load localise lock log look lower mail maintain make map mark mask match measure mend
merge migrate mix monitor move multiply must name narrow need needs negotiate normalise normalize note notify
observe obtain offer omit on open order overlay pack pad paint parse pass patch pause perform permits pick
place plan play plot poll pool populate post postpone predict prefer prepare preprocess prevent print probe
process promote proves provide prune publish pull purge push put query queue quote raise ramp randomise rank
reach read rebuild receive recognise recommend reconcile reconnect record recover redirect reduce refill
refresh refund refuse refuses register rehearse reject release reload remember remove rename render renew
reopen repair repeat replace reply report reprocess request require rescale reschedule rescue resend reserve
reset resize resolve respond restart restore restrict resume retain retrain retrieve retry return reuse reveal
reverse revert review revive rewrite roll rotate round route run sample save scale scan schedule score screen
search see seek select send separate serialise serialize serve set settle shade shall share shift shorten
should show shuffle shut sign simplify simulate skip sleep slice smooth snap solve sort spawn speak spend
split squeeze stack stamp stand start state step stop store stow stream strip submit subscribe substitute
subtract suggest sum summarise summarize supersede supervise supports swap sweep switch synchronise take tally
teach tell terminate test throw tick tie time tokenise tokenize touch trace track train transcode transform
translate transpose traverse trim truncate try turn undo unify unlink unload unlock unpack unregister
unsubscribe update upgrade upload upsert use validate vary verify visit wait walk want wants warm warn was
wash watch weigh widen withdraw work wrap write yield zero
"""
VERBS = frozenset(VERBS_TEXT.split())
PREDICATES = frozenset({"is", "has", "can", "should", "must"})
NO_PARTICIPLES = frozenset({"bed", "embed", "exceed", "feed", "indeed", "need", "seed", "shed", "speed", "sted"})
VAGUE = frozenset({"found", "said", "wanted", "made", "one", "place"})
OPENINGS = re.compile(r"(What|Which|Whether|How)\b")


@dataclass(slots=True, kw_only=True)
class Measures:
    """The figures of one package, with the places behind them."""

    files: list[int] = field(default_factory=list)
    flat: int = 0
    functions: int = 0
    verbs: int = 0
    places: dict[str, list[str]] = field(default_factory=dict)
    docstrings: int = 0
    comments: int = 0
    classes: Counter[str] = field(default_factory=Counter)

    def add(self, measure: str, place: str) -> None:
        """Note one place behind a measure."""
        self.places.setdefault(measure, []).append(place)

    def count(self, measure: str) -> int:
        """The number of places behind a measure."""
        return len(self.places.get(measure, []))


def measure(package: Path, under: Path) -> Measures:
    """Measure every file of one package that lies under the folder."""
    measures = Measures()
    measures.flat = sum(1 for path in package.glob("*.py") if path.name != "__init__.py")
    for path in sorted(package.rglob("*.py")):
        if under in path.parents or under in (path, package):
            text = path.read_text("utf-8")
            measures.files.append(text.count("\n"))
            measures.comments += sum(
                1 for token in tokenize.generate_tokens(io.StringIO(text).readline) if token.type == tokenize.COMMENT
            )
            measure_tree(ast.parse(text), path.relative_to(package.parent), measures)
    return measures


def measure_tree(tree: ast.Module, path: Path, measures: Measures) -> None:
    """Add one file's names and docstrings to the figures."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            measure_function(node, f"{path}:{node.lineno}: {node.name}", measures)
        elif isinstance(node, ast.ClassDef):
            measures.classes[node.name] += 1
            measures.add("classes", f"{node.name}: {path}:{node.lineno}")
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in VAGUE:
            measures.add("variables", f"{path}:{node.lineno}: {node.id}")
    for text, line in docstrings(tree):
        measures.docstrings += 1
        if OPENINGS.match(text):
            measures.add("docstrings", f"{path}:{line}: {text.splitlines()[0]}")


def measure_function(node: ast.FunctionDef | ast.AsyncFunctionDef, place: str, measures: Measures) -> None:
    """Add one function's name, unless Python gave it."""
    if node.name.startswith("__"):
        return
    measures.functions += 1
    first = node.name.strip("_").split("_")[0]
    if first in VERBS | PREDICATES:
        measures.verbs += 1
    elif (first.endswith("ed") and first not in NO_PARTICIPLES) or first in {"made", "told", "kept", "drawn", "taught"}:
        measures.add("participles", place)
    else:
        measures.add("verbs", place)


def is_constant(node: ast.stmt) -> Any:
    """Tell whether a statement is a bare constant, as a docstring is."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def docstrings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every docstring and the strings under constants and fields, with their lines."""
    for node in ast.walk(tree):
        body = getattr(node, "body", ())
        for statement in body if isinstance(body, list) else ():
            value = statement.value.value if is_constant(statement) else None
            if isinstance(value, str) and value.strip():
                yield value.strip(), statement.lineno


def figures(measures: Measures, shared_classes: int) -> dict[str, str]:
    """The figures of one package as text."""
    lines, functions = sum(measures.files), max(1, measures.functions)
    return {
        "modules flat in the root": f"{measures.flat} of {len(measures.files)}",
        "functions that begin with a verb": f"{100 * measures.verbs / functions:.0f} %",
        "functions named by a participle": f"{100 * measures.count('participles') / functions:.1f} %",
        "docstrings that open What, Which, Whether or How": (
            f"{100 * measures.count('docstrings') / max(1, measures.docstrings):.1f} %"
        ),
        "vague variables per 1,000 lines": f"{1000 * measures.count('variables') / max(1, lines):.1f}",
        "class names defined more than once": str(shared_classes),
        "comment lines per 1,000": f"{1000 * measures.comments / max(1, lines):.1f}",
        "lines of a file, median / longest": f"{median(measures.files or [0]):.0f} / {max(measures.files or [0])}",
    }


def main() -> None:
    """Print the table, or the places behind one measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).resolve().parent.parent)
    parser.add_argument("--list", choices=["verbs", "participles", "docstrings", "classes", "variables"])
    parser.add_argument("--under", type=Path, default=None, help="only the files under this folder of the checkout")
    options = parser.parse_args()
    measured = {
        name: measure(options.root / name, options.root / (options.under or name))
        for name in PACKAGES
        if (options.root / name).is_dir()
    }
    every = sum((each.classes for each in measured.values()), Counter[str]())
    if options.list:
        for each in measured.values():
            for place in each.places.get(options.list, []):
                if options.list != "classes" or every[place.partition(":")[0]] > 1:
                    print(place)
        return
    columns = {
        name: figures(each, sum(1 for word in each.classes if every[word] > 1)) for name, each in measured.items()
    }
    print("| | " + " | ".join(columns) + " | known codebases |\n|---|" + "---|" * (len(columns) + 1))
    for row, anchor in ANCHORS.items():
        print(f"| {row} | " + " | ".join(column[row] for column in columns.values()) + f" | {anchor} |")


if __name__ == "__main__":
    main()
