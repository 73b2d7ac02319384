"""What a matrix is made from, as one hash: with the same one, nothing has to be computed again."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from declip_pl import cross_eval, metrics
from declip_pl.cross_eval.cell import Cell
from declip_pl.cross_eval.columns import columns_hash
from declip_pl.cross_eval.scored_model import ScoredModel
from declip_pl.metrics import Thresholds, all_metrics
from declip_pl.records import json_hash, to_json


def inputs_hash(
    models: Sequence[ScoredModel],
    cells: Mapping[tuple[str, str], Cell],
    thresholds: Mapping[str, Thresholds],
    columns: Sequence[str],
    pooling: str,
) -> str:
    """Return a SHA-256 over what :func:`declip_pl.cross_eval.build.build_matrix` takes.

    It includes the code of the statistics, the names of the metrics in their order, and the
    versions of the libraries that draw and add up.
    """
    said = {
        "models": to_json(models),
        "cells": [
            # The names, of which there may be very many, are text as they are.
            [
                *pair,
                to_json(replace(cell.about, seconds=0.0, photos=[])),
                cell.photos,
                columns_hash(cell.columns),
            ]
            for pair, cell in sorted(cells.items())
        ],
        "thresholds": to_json(thresholds),
        "columns": list(columns),
        "pooling": pooling,
        "metrics": [(entry.name, entry.less_is_better) for entry in all_metrics()],
        "code": _code_hash(),
        "versions": [np.__version__, torch.__version__],
    }
    return json_hash(said)


@cache
def _code_hash() -> str:
    """Return a hash of the sources of cross-evaluations and metrics."""
    digest = hashlib.sha256()
    for package in (cross_eval, metrics):
        for file in sorted(Path(package.__path__[0]).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
