"""Write docs/reference/command-line.md from the commands themselves.

    python scripts/make_command_reference.py [--check]

`--check` writes nothing and ends with status 1 where the file is not current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dicom_node.cli import COMMANDS, load_command

TARGET = Path(__file__).resolve().parents[1] / "docs" / "reference" / "command-line.md"
HEAD = """# The command line

Made from the commands by `scripts/make_command_reference.py`; a test fails where it is not current. `--config` defaults
to `$DICOM_NODE_CONFIG`, else `./config.toml`.

| exit status | meaning |
|---|---|
| 0 | done, and nothing needs attention |
| 1 | failed; or the request succeeded and its result needs attention (`status`, `doctor`, `drift`) |
| 2 | wrong usage: an invalid option, path, name or configuration key; nothing was started |

"""


def leaves(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command below a group, by its words."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, each in command.commands.items():
        yield from leaves(each, f"{name} {word}")


def section(name: str, command: Any) -> str:
    """One command: its help and its parameters."""
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    usage = " ".join(["dicom-node", name, *(_word(one) for one in arguments), "[OPTIONS]"])
    lines = [f"## {name}", "", f"    {usage}", "", _plain(command.help), ""]
    if arguments or options:
        lines += ["| parameter | meaning |", "|---|---|"]
        lines += [f"| `{_word(one)}` | {_plain(one.help)} |" for one in arguments]
        lines += [f"| `{', '.join(one.opts)}`{_default(one)} | {_plain(one.help)} |" for one in options]
        lines.append("")
    return "\n".join(lines)


def _word(argument: Any) -> str:
    word = argument.metavar or str(argument.name).upper()
    return word if argument.required else f"[{word}]"


def _default(option: Any) -> str:
    value = option.default
    return "" if value is None or value is False or callable(value) or value == () else f" ({value})"


def _plain(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").replace("<", "&lt;").split())


def reference() -> str:
    """The whole document."""
    found = {name: each for top in COMMANDS for name, each in leaves(load_command(top), top)}
    return HEAD + "\n".join(section(name, found[name]) for name in sorted(found))


def main() -> int:
    """Write or check the document; returns the exit status."""
    text = reference()
    if "--check" in sys.argv:
        if not TARGET.exists() or TARGET.read_text("utf-8") != text:
            sys.stderr.write(f"{TARGET.name} is not current: python scripts/make_command_reference.py\n")
            return 1
        return 0
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
