"""Hooks of mkdocs: the table of metrics is the package's own, and docstrings show as Markdown."""

import re
from typing import Any

from declip_pl.metrics import all_metrics

ROLE = re.compile(r":(?:class|func|data|meth|mod|attr):<code>(?:[\w.]*\.)?(\w+)</code>")
TABLE = re.compile(r"(?<=<!-- metrics -->\n)(\|.*\n)+")


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Return a page with the metrics that this version has, after ``<!-- metrics -->``."""
    rows = [f"| `{m.name}` | **{m.title}**: {m.definition} |" for m in all_metrics()]
    return TABLE.sub("\n".join(["\n| name | what |", "|---|---|", *rows, ""]), markdown)


def on_page_content(html: str, **kwargs: Any) -> str:
    """Return a page's HTML without the names of roles (``:class:`Name```), which Markdown lacks."""
    return ROLE.sub(r"<code>\1</code>", html)
