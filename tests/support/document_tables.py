"""Reads and renders the tables of the documents.

`python -m tests.support.document_tables` writes the table of settings in `docs/settings.md` anew.
"""

import argparse
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / "docs" / "settings.md"
BEGIN = "<!-- generated from config.toml by: python -m tests.support.document_tables -->\n"
END = "<!-- end of the generated table -->\n"

Row = dict[str, str]
"""The cells of a table's row by the column's heading."""

_SETTING = re.compile(r"(?P<key>\w+) *= *(?P<default>[^#]+?) *# (?P<meaning>\S.*)")


def read(document: str) -> str:
    """Return the text of a document, named from the root of the repository."""
    return (ROOT / document).read_text(encoding="utf-8")


def read_tables(text: str) -> Iterator[list[Row]]:
    """Yield the tables of a Markdown text, each as its rows."""
    lines: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
            lines.append([cell.strip().replace("\\|", "|") for cell in cells])
        elif lines:
            heading, _, *rows = lines
            yield [dict(zip(heading, row, strict=True)) for row in rows]
            lines = []


def read_table(text: str, *headings: str) -> list[Row]:
    """Return the rows of the one table whose first columns have these headings."""
    found = [rows for rows in read_tables(text) if rows and list(rows[0])[: len(headings)] == list(headings)]
    assert len(found) == 1, f"{len(found)} tables begin with the columns {headings}, expected one"
    return found[0]


def code_spans(text: str) -> list[str]:
    """Return what stands in single backticks."""
    return re.findall(r"`([^`\n]+)`", text)


def render_settings(config: str) -> str:
    """Return the table of settings that the text of `config.toml` gives."""
    rows = ["| section | key | default | meaning |", "|---|---|---|---|"]
    section = ""
    for line in config.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif match := _SETTING.fullmatch(line):
            default, meaning = match["default"], match["meaning"].replace("|", "\\|")
            rows.append(f"| `{section}` | `{match['key']}` | `{default}` | {meaning} |")
    assert len(rows) - 2 == sum(map(len, tomllib.loads(config).values())), "each setting has a comment on its line"
    return "\n".join(rows) + "\n"


def with_settings(document: str, config: str) -> str:
    """Return the text of `docs/settings.md` with the table of settings that belongs there."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{render_settings(config)}\n{END}{after}"


def main() -> None:
    """Write the table of settings anew."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    SETTINGS.write_text(with_settings(read("docs/settings.md"), read("config.toml")), encoding="utf-8")


if __name__ == "__main__":
    main()
