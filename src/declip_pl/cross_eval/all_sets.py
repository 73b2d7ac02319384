"""Several data sets on which the same models were scored, shown together."""

from collections.abc import Sequence
from pathlib import Path

from declip_pl.cross_eval.domains import (
    PICTURE,
    SPREADSHEET,
    domains_of,
    domains_text,
    write_domains,
)
from declip_pl.cross_eval.matrix import Matrix
from declip_pl.cross_eval.views.domains_png import domains_png
from declip_pl.cross_eval.views.report import write_report
from declip_pl.training.run_folder import claim


def show_all(folder: Path, matrices: Sequence[Matrix]) -> None:
    """Write what shows all data sets into the first one's folder, and print it."""
    if len(matrices) == 1:  # all others failed
        return
    domains = domains_of(matrices)
    with claim(folder, "cross-evaluating into"):
        write_domains(folder, domains)
        domains_png(matrices, domains, folder / PICTURE)
        write_report(folder)
    print(domains_text(domains))
    print(f"all data sets: {folder / PICTURE}")
    print(f"their table:   {folder / SPREADSHEET}")
