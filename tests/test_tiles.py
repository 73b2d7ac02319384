"""Tiles cover a photo, fade into one another, and leave nothing of themselves in the heat map."""

import numpy as np
import pytest

from declip_pl.inference.tiles import OVERLAP, TILE, Blend, windows

SIDES = [1, 100, TILE - 1, TILE, TILE + 1, 300, 2 * TILE - OVERLAP, 2 * TILE, 1000, 4000]


def blended(heatmap: np.ndarray) -> np.ndarray:
    """Cut a heat map into tiles and blend them again."""
    blend = Blend(*heatmap.shape)
    for window in windows(*heatmap.shape):
        blend.add(window, heatmap[window])
    return blend.heatmap()


@pytest.mark.parametrize("side", SIDES)
def test_tiles_cover_a_side_evenly(side):
    starts = [columns.start for _, columns in windows(TILE, side)]
    ends = [columns.stop for _, columns in windows(TILE, side)]
    assert starts[0] == 0 and ends[-1] == side
    assert {end - start for start, end in zip(starts, ends, strict=True)} == {min(side, TILE)}
    overlaps = np.subtract(ends[:-1], starts[1:])
    assert (overlaps >= OVERLAP).all()
    # No tile more than needed: one less could not overlap as much.
    assert len(starts) == 1 or TILE + (len(starts) - 2) * (TILE - OVERLAP) < side
    assert len(overlaps) == 0 or overlaps.max() - overlaps.min() <= 1


def test_windows_go_row_by_row():
    found = windows(300, 256 + 192)
    assert [(rows.start, columns.start) for rows, columns in found] == [
        (0, 0), (0, 192), (44, 0), (44, 192)
    ]  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 1), (256, 256), (40, 700), (600, 500)])
def test_tiles_that_agree_give_the_map_itself(shape):
    heatmap = np.random.default_rng(0).random(shape, np.float32)
    np.testing.assert_allclose(blended(heatmap), heatmap, atol=1e-6)
    ones = blended(np.ones(shape, np.float32))
    assert ones.max() <= 1
    np.testing.assert_allclose(ones, 1, atol=1e-6)


def test_tiles_that_disagree_are_weighted_by_the_distance_to_their_edges():
    """An independent, slow sum over all tiles and pixels."""
    height, width = 300, 700
    rng = np.random.default_rng(0)
    maps = [rng.random((TILE, TILE), np.float32) for _ in windows(height, width)]
    blend = Blend(height, width)
    total, weights = np.zeros((height, width)), np.zeros((height, width))
    near = (np.arange(TILE) + 0.5) / TILE
    hann = (1 - np.cos(2 * np.pi * near)) / 2
    for window, heatmap in zip(windows(height, width), maps, strict=True):
        blend.add(window, heatmap)
        total[window] += np.outer(hann, hann) * heatmap
        weights[window] += np.outer(hann, hann)
    np.testing.assert_allclose(blend.heatmap(), total / weights, atol=1e-5)


def test_one_tile_fades_into_the_next_without_a_step():
    blend = Blend(TILE, 2 * TILE - OVERLAP)
    left, right = windows(TILE, 2 * TILE - OVERLAP)
    blend.add(left, np.zeros((TILE, TILE), np.float32))
    blend.add(right, np.ones((TILE, TILE), np.float32))
    line = blend.heatmap()[0]
    assert line[0] == 0 and line[-1] == 1
    steps = np.diff(line)
    assert steps.min() > -1e-6 and 0 < steps.max() < 2.5 / OVERLAP
