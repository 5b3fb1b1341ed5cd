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
exclude_patterns = ["requirements.txt"]


def setup(app: Any) -> None:
    """Give the site a menu: the pages in the order in which README.md lists them."""
    app.connect("source-read", _add_menu)


def _add_menu(app: Any, name: str, source: list[str]) -> None:
    if name == root_doc:
        pages = re.findall(r"\]\((\w+)\.md\)", Path(app.srcdir, "README.md").read_text("utf-8"))
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"
