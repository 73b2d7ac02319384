"""``declip-pl data info``: what is known of the data sets whose layouts ship."""

from collections.abc import Sequence

from declip_pl.data.facts import DataSetFacts
from declip_pl.data.layout import LAYOUTS, facts_of

UNKNOWN = "not found; ask its authors"


def info(names: Sequence[str] = ()) -> None:
    """Tell of data sets where they are to be had, under which terms, and what to look out for.

    Nothing is downloaded.

    Args:
        names: Layouts; without any all are listed.

    Raises:
        UserError: If there is no layout of that name.
    """
    if names:
        print("\n\n".join(described(name, facts_of(LAYOUTS.find(name))) for name in names))
        return
    known = all_facts()
    width = max(map(len, known))
    for name, facts in known.items():
        print(f"{name:<{width}}  {facts.title}; {facts.link or facts.access or facts.layout}")
    print("declip-pl data info NAME tells more; LAYOUT:PATH names a data set for every command")


def all_facts() -> dict[str, DataSetFacts]:
    """Return what is known of the data sets, by the names of their layouts, sorted."""
    known = {name: facts_of(LAYOUTS.find(name)) for name in sorted(LAYOUTS.names())}
    return {name: facts for name, facts in known.items() if facts}


def described(name: str, facts: DataSetFacts | None) -> str:
    """Return what is known of a data set as text, a line for each thing that is."""
    if facts is None:
        return f"{name}: a layout of your own"
    counts = ", ".join(f"{count:,} of {made}" for made, count in facts.counts.items())
    lines = [
        f"{name}: {facts.title}",
        f"  made by:  {facts.source}",
        f"  link:     {facts.link}" * bool(facts.link),
        f"  access:   {facts.access}" * bool(facts.access),
        f"  licence:  {facts.licence or UNKNOWN}" * bool(facts.link or facts.access),
        f"  layout:   {facts.layout}",
        f"  fake is:  {facts.masks}",
        f"  splits:   {facts.splits}" * bool(facts.splits),
        f"  photos:   {counts}" * bool(counts),
        *(f"  trap:     {trap}" for trap in facts.traps),
        *(f"  defect:   {defect}" for defect in facts.defects),
        f"  use it:   DATA={name}:PATH, --data {name}:PATH",
    ]
    return "\n".join(filter(None, lines))
