"""Write config.example.toml and docs/reference/configuration.md from the settings classes; --check only compares."""

from __future__ import annotations

import sys
from pathlib import Path

from dicom_node.config.reference import reference_page
from dicom_node.config.template import template

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    """Write both files; with --check return 1 where one is not current."""
    stale = []
    for path, text in (
        (REPOSITORY / "config.example.toml", template()),
        (REPOSITORY / "docs/reference/configuration.md", reference_page()),
    ):
        if not path.is_file() or path.read_text("utf-8") != text:
            stale.append(path.relative_to(REPOSITORY))
            if "--check" not in sys.argv:
                path.write_text(text, "utf-8")
    for path in stale:
        print(f"{path}: {'not current; run scripts/write_configuration.py' if '--check' in sys.argv else 'written'}")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
