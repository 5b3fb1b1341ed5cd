"""How Sphinx builds these pages into a site: `make docs`. GitHub renders them as they are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

project = "bert-qa"
extensions = ["myst_parser"]
root_doc = "README"
html_theme = "furo"
myst_heading_anchors = 3


def setup(app: Any) -> None:
    """Make of each page one of a site."""
    app.connect("source-read", _for_site)


def _for_site(app: Any, name: str, source: list[str]) -> None:
    # Files of the repository are no pages: their links, which tests check, become text.
    source[0] = re.sub(r"(?<!!)\[([^\]]+)\]\(\.\./[^)]*\)", r"\1", source[0])
    if name == root_doc:  # the menu: the pages in the order in which it lists them
        pages = re.findall(r"\]\((\w+)\.md\)", Path(app.srcdir, "README.md").read_text("utf-8"))
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
