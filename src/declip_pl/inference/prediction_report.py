"""What ``declip-pl predict`` prints at its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from declip_pl.errors import UserError
from declip_pl.inference.evidence import FEATURES, NO_PROOF, QUALITY, SIZE, listed
from declip_pl.inference.prediction_folder import RECORDS, TABLE, Record


def print_report(folder: Path, records: Sequence[Record], rule: Mapping[str, Any]) -> None:
    """Print what was found, and where it stands.

    Args:
        folder: What was written.
        records: Of the photos that were named, those that failed among them.
        rule: What decided on all masks: ``floor``, or else ``pixel_threshold``.

    Raises:
        UserError: If a photo failed; all of them are named.
    """
    failed = [record for record in records if "error" in record]
    if len(records) > len(failed):
        _print_found([record for record in records if "error" not in record], len(failed))
        if "floor" in rule:
            own = "cut where its expected IoU is highest"
            print(f"masks:    each photo {own}, none where its peak is below {rule['floor']:g}")
        else:
            print(f"masks:    every photo cut at {rule['pixel_threshold']:g}")
        print(f"pictures: {folder}/heatmaps, masks, overlays")
        print(f"table:    {folder / TABLE} (regions in {RECORDS})")
    if len(records) == len(failed) == 1:
        raise UserError(failed[0]["error"])
    if failed:
        lines = "".join(f"\n  {record['error']}" for record in failed)
        raise UserError(f"{len(failed)} of {len(records)} photos failed:{lines}")


def _print_found(records: Sequence[Record], failed: int) -> None:
    """Print what the only photo's score says, or how many of several are above the cut-off."""
    if len(records) == 1 and not failed:
        (record,) = records
        print(record["verdict"].replace(". ", ".\n"))  # a line for each sentence
        count = len(record["regions"])
        where = f"{record['share']:.1%} of the photo, {count} region{'s' if count > 1 else ''}"
        print(f"marked:   {where if count else 'nothing'}")
        return
    above = [record["above"] for record in records if record["above"] is not None]
    if above:
        cut = records[0]["image_threshold"]
        print(f"scores:   {sum(above)} of {len(above)} above the model's cut-off of {cut:.2f}")
    if compared := {what for record in records for what in record.get("compared", ())}:
        unlike = sum(bool(record["unlike"]) for record in records)
        known = [what for what in (SIZE, QUALITY, FEATURES) if what in compared]
        left = sum(FEATURES not in record.get("compared", ()) for record in records)
        whose = "" if left == len(records) else f" of {left}"
        also = f"; camera and subject{whose} were not compared" if left else ""
        print(
            f"unlike:   {unlike} of {len(records)} are unlike the photos of the training in "
            f"{listed(known, 'or')}{also}"
        )
    print(f"          {NO_PROOF}")
    found = sum(record["area"] > 0 for record in records)
    none, total = len(records) - found, len(records) + failed
    print(f"{total} photos: a region found in {found}, none in {none}, {failed} failed")
