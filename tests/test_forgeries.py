"""Forgeries: regions, operations, autoencoders, and what they make of a photo together."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import declip_pl.data.forgeries as package
from declip_pl.data.forgeries import forge as recipe
from declip_pl.data.forgeries.autoencoders import (
    CROP,
    KINDS,
    load_autoencoder,
    save_autoencoder,
    train_autoencoder,
)
from declip_pl.data.forgeries.forge import CONTENT, forge, left_out
from declip_pl.data.forgeries.operations import OPERATIONS, compress
from declip_pl.data.forgeries.regions import SHARE, random_region
from declip_pl.errors import UserError

SIDES = st.integers(24, 160)


def photo_of(height: int, width: int, seed: int = 0):
    """Return something with edges, gradients and grain, ``[H, W, 3]`` uint8."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(30, 220, (5, 5, 3)).astype(np.uint8)
    photo = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(float)
    photo[height // 3 : height // 2] *= 0.6
    return (photo + rng.normal(0, 3, photo.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def autoencoder():
    """One that was trained for a few steps."""
    return train_autoencoder(KINDS[0], [photo_of(CROP, CROP + 9, i) for i in range(3)], 0, steps=12)


# Regions.


@given(height=SIDES, width=SIDES, seed=st.integers(0, 2**32 - 1))
def test_a_region_has_the_photos_size_and_a_share_within_bounds(height, width, seed):
    region, _ = random_region((height, width), np.random.default_rng(seed))
    assert region.shape == (height, width) and region.dtype == bool
    assert SHARE[0] <= region.mean() <= SHARE[1]


def test_regions_follow_from_the_seed_and_differ_between_seeds():
    first, again, other = (random_region((90, 70), np.random.default_rng(s))[0] for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


# Operations.


@pytest.mark.parametrize("name", OPERATIONS.names())
@given(height=SIDES, width=SIDES, seed=st.integers(0, 2**32 - 1))
def test_an_operation_keeps_size_and_input_and_follows_from_the_seed(name, height, width, seed):
    photo = photo_of(height, width)
    before, run = photo.copy(), OPERATIONS.find(name)
    first, again = (run(photo, np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == photo.shape and first.dtype == np.uint8
    assert (first == again).all() and (photo == before).all()


@pytest.mark.parametrize("name", OPERATIONS.names())
def test_an_operation_changes_a_photo_and_leaves_it_recognisable(name):
    photo = photo_of(120, 150)
    for seed in range(8):
        changed = OPERATIONS.find(name)(photo, np.random.default_rng(seed))
        assert (changed != photo).any()
        assert np.corrcoef(changed.ravel(), photo.ravel())[0, 1] > 0.85


def test_compression_of_low_quality_loses_more():
    photo = photo_of(96, 96)
    errors = [
        np.abs(compress(photo, quality, np.random.default_rng(0)).astype(int) - photo).mean()
        for quality in (95, 30)
    ]
    assert 0 < errors[0] < errors[1]


def test_an_operation_from_outside_is_used(tmp_path):
    """A file that DECLIP_PARTS would name registers a word, and forging takes it."""
    (tmp_path / "mine.py").write_text(
        "from declip_pl.data.forgeries.operations import OPERATIONS\n"
        "@OPERATIONS.register('inverted')\n"
        "def inverted(pixels, rng):\n"
        "    return 255 - pixels\n"
    )
    script = (
        "import numpy as np\n"
        "from declip_pl.data.forgeries.forge import forge\n"
        "photo = np.zeros((64, 64, 3), np.uint8)\n"
        "found = [forge(photo, photo, np.random.default_rng(i), {}) for i in range(60)]\n"
        "print(any('inverted' in forgery.operations for forgery in found))\n"
    )
    environment = {"DECLIP_PARTS": str(tmp_path / "mine.py"), "PATH": ""}
    environment["PYTHONPATH"] = str(Path(package.__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


# Autoencoders.


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_autoencoders_take_photos_of_any_size(kind):
    model = train_autoencoder(kind, [photo_of(CROP, CROP)], 0, steps=1)
    for size in ((33, 50), (64, 64)):
        found = model.apply_to(photo_of(*size))
        assert found.shape == (*size, 3) and found.dtype == np.uint8


def test_an_autoencoder_learns_to_reproduce_photos(autoencoder):
    photos = [photo_of(CROP, CROP, i) for i in range(3)]
    untrained = train_autoencoder(KINDS[0], photos, 0, steps=1)
    before, after = (
        np.mean([np.abs(model.apply_to(p).astype(int) - p).mean() for p in photos])
        for model in (untrained, train_autoencoder(KINDS[0], photos, 0, steps=60))
    )
    assert after < 0.7 * before


def test_an_autoencoder_follows_from_its_seed_and_comes_back_from_its_file(autoencoder, tmp_path):
    photos = [photo_of(CROP, CROP + 9, i) for i in range(3)]
    again, other = (train_autoencoder(KINDS[0], photos, seed, steps=12) for seed in (0, 1))
    assert again.sha256 == autoencoder.sha256 != other.sha256
    save_autoencoder(autoencoder, tmp_path / "a.safetensors")
    back = load_autoencoder(KINDS[0], tmp_path / "a.safetensors")
    assert back.sha256 == autoencoder.sha256
    photo = photo_of(50, 60)
    assert (back.apply_to(photo) == autoencoder.apply_to(photo)).all()


def test_weights_of_another_kind_are_refused(autoencoder, tmp_path):
    save_autoencoder(autoencoder, tmp_path / "a.safetensors")
    with pytest.raises(RuntimeError, match=r"size mismatch|Missing key"):
        load_autoencoder(KINDS[-1], tmp_path / "a.safetensors")


# Forgeries.


def many(count: int, autoencoders):
    photo, other = photo_of(64, 80), photo_of(50, 120, seed=1)
    return photo, [
        forge(photo, other, np.random.default_rng(i), autoencoders) for i in range(count)
    ]


def test_forgeries_follow_from_the_seed(autoencoder):
    _, first = many(12, {"autoencoder-nearest-4": autoencoder})
    _, again = many(12, {"autoencoder-nearest-4": autoencoder})
    assert all((a.pixels == b.pixels).all() and a.operations == b.operations
               for a, b in zip(first, again, strict=True))  # fmt: skip


def test_what_is_outside_the_region_stays_unless_the_whole_photo_is_reprocessed():
    photo, found = many(120, {})
    kept = [f for f in found if not any(name.startswith("everywhere:") for name in f.operations)]
    assert kept
    for forgery in kept:
        if forgery.mask is None:
            assert (forgery.pixels == photo).all() and forgery.operations == ()
        else:
            # A soft edge of 3 px at most reaches some pixels further.
            near = cv2.dilate(forgery.mask.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
            assert (forgery.pixels[~near] == photo[~near]).all()
            assert (forgery.pixels[forgery.mask] != photo[forgery.mask]).any()


def test_shares_are_those_of_the_recipe(autoencoder):
    _, found = many(400, {"autoencoder-nearest-4": autoencoder})
    forged = [f for f in found if f.mask is not None]
    counted = {
        "untouched": (1 - len(forged) / len(found), recipe.UNTOUCHED),
        "everywhere": (
            np.mean([any(n.startswith("everywhere:") for n in f.operations) for f in found]),
            1 - (1 - recipe.EVERYWHERE) * (1 - recipe.COMPRESSED),
        ),
        **{
            content: (np.mean([f.operations[0] == content for f in forged]), share)
            for content, share in recipe.CONTENT.items()
        },
    }
    for name, (measured, wanted) in counted.items():
        assert abs(measured - wanted) < 0.1, name


@given(height=SIDES, width=SIDES, seed=st.integers(0, 2**32 - 1))
def test_photos_of_any_size_can_be_forged(height, width, seed):
    photo, other = photo_of(height, width), photo_of(width, height, seed=1)
    forgery = forge(photo, other, np.random.default_rng(seed), {})
    assert forgery.pixels.shape == photo.shape and forgery.pixels.dtype == np.uint8
    assert forgery.mask is None or forgery.mask.shape == photo.shape[:2]


# The leakage rule: nothing here is, or works like, a generator that localizers are evaluated on.

FILLS = ("inpaint", "seamlessclone", "texture", "patchmatch", "diffus", "poisson", "telea")


def sources() -> list[Path]:
    """Return the files of the package."""
    return sorted(Path(package.__file__).parent.glob("*.py"))


WAYS = [*OPERATIONS.names(), "autoencoder-shuffle-4"]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["blur"], {"blur"}),
        (["autoencoder-*", "median"], {"autoencoder-shuffle-4", "median"}),
        (["other", "near", "far", "everywhere"], {"other", "near", "far", "everywhere"}),
        ([name for name in WAYS if name != "tone"], {*WAYS} - {"tone"}),
        ([], set()),
    ],
)
def test_what_is_left_out_is_in_no_forgery(autoencoder, patterns, names):
    without = left_out(patterns, WAYS[-1:])
    assert set(without) == names
    used = set()
    for seed in range(150):
        rng = np.random.default_rng(seed)
        made = forge(photo_of(40, 40), photo_of(44, 48, 1), rng, {WAYS[-1]: autoencoder}, without)
        used |= {name.replace("everywhere:", "") for name in made.operations}
        whole = [name for name in made.operations if name.startswith("everywhere:")]
        assert "everywhere" not in names or whole in ([], ["everywhere:compressed"])
    assert used == {*WAYS, *CONTENT, "compressed"} - names


@pytest.mark.parametrize("patterns", [["blurr"], ["own"], ["blur", "gan-*"], ["*"], WAYS])
def test_what_is_not_known_or_all_there_is_is_not_left_out(patterns):
    with pytest.raises(UserError, match=r"expected one of .*autoencoder-shuffle-4|is left"):
        left_out(patterns, WAYS[-1:])


def test_nothing_fills_a_hole_or_blends_gradients():
    for file in sources():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        names = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
        names += [node.id for node in ast.walk(tree) if isinstance(node, ast.Name)]
        names += [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        assert not [n for n in names if any(word in n.lower() for word in FILLS)], file


def test_nothing_is_taken_from_mini_or_from_published_networks():
    for file in sources():
        tree = ast.parse(file.read_text(encoding="utf-8"))
        taken = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
        }
        assert not [n for n in taken if "inpainters" in n or "mini" in n], file
        assert not taken & {"diffusers", "transformers", "timm", "huggingface_hub"}, file


@pytest.mark.parametrize("name", OPERATIONS.names())
def test_no_operation_knows_where_the_region_is(name):
    """An inpainter needs the hole; these see a whole photo and nothing else."""
    assert list(inspect.signature(OPERATIONS.find(name)).parameters) == ["pixels", "rng"]
