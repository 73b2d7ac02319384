"""Hooks of mkdocs: tables that the package itself fills, and docstrings that show as Markdown."""

import re
from typing import Any

from declip_pl.data.info import all_facts
from declip_pl.metrics import all_metrics

ROLE = re.compile(r":(?:class|func|data|meth|mod|attr):<code>(?:[\w.]*\.)?(\w+)</code>")
TABLE = re.compile(r"<!-- (\w+) -->\n(?:\|.*\n)+")


def metrics() -> list[str]:
    """Return the rows of the table of metrics."""
    rows = [f"| `{m.name}` | **{m.title}**: {m.definition} |" for m in all_metrics()]
    return ["| name | what |", "|---|---|", *rows]


def layouts() -> list[str]:
    """Return the rows of the table of data sets."""
    rows = []
    for name, facts in all_facts().items():
        title = f"[{facts.title}]({facts.link.split(' ')[0]})" if facts.link else facts.title
        terms = "; ".join(filter(None, (facts.licence, facts.access)))
        rows.append(f"| `{name}` | {title} | {facts.masks} | {facts.splits} | {terms} |")
    return ["| layout | data set | fake is | splits | terms |", "|---|---|---|---|---|", *rows]


TABLES = {"metrics": metrics, "layouts": layouts}


def on_page_markdown(markdown: str, **kwargs: Any) -> str:
    """Return a page with the tables of this version, after ``<!-- metrics -->`` and such."""
    return TABLE.sub(lambda found: "\n".join(["", *TABLES[found[1]](), ""]), markdown)


def on_page_content(html: str, **kwargs: Any) -> str:
    """Return a page's HTML without the names of roles (``:class:`Name```), which Markdown lacks."""
    return ROLE.sub(r"<code>\1</code>", html)
