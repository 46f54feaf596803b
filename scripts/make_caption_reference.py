"""Compute the caption metrics' reference values with pycocoevalcap (needs Java), for tests/training/data.

    pip install pycocoevalcap==1.2      # in an environment of its own
    python scripts/make_caption_reference.py SENTENCES.json OUT.json

SENTENCES.json: [{"reference": [..], "said": ".."}], our own sentences. The values are pycocoevalcap's, unchanged.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer


def main(source: Path, target: Path) -> None:
    items = json.loads(source.read_text("utf-8"))
    tokenizer = PTBTokenizer()
    said = tokenizer.tokenize({n: [{"caption": item["said"]}] for n, item in enumerate(items)})
    true = tokenizer.tokenize({n: [{"caption": text} for text in item["reference"]] for n, item in enumerate(items)})
    values: dict[str, object] = {}
    bleu, bleu_each = Bleu(4).compute_score(true, said, verbose=0)
    values["bleu"], values["bleu_each"] = bleu, bleu_each
    for name, scorer in (("rouge_l", Rouge()), ("cider", Cider()), ("meteor", Meteor())):
        value, each = scorer.compute_score(true, said)
        values[name], values[f"{name}_each"] = float(value), [float(score) for score in each]
    tokens = [{"reference": true[n], "said": said[n][0]} for n in range(len(items))]
    made = {"made_by": "pycocoevalcap 1.2", "items": items, "tokens": tokens, "values": values}
    target.write_text(json.dumps(made, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
