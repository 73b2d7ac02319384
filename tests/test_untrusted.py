"""Files of localizers that may come from anywhere: they are read as they were written, or refused.

Every refusal is one line, quick, and looks at no path that the file names.
"""

import copy
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from hypothesis import given
from hypothesis import strategies as st
from localizer_example import checkpoint_of, content_of, write_run
from torch import nn

from declip_pl import Localizer
from declip_pl.errors import UserError
from declip_pl.inference.published_checkpoint import read_published
from declip_pl.model.checkpoint import load_network, read_checkpoint, run_of, save
from declip_pl.model.resnet import load_resnet
from declip_pl.training.task import LocalizationTask

TRAINED = {"generators": ["ldm"], "supervision": "full", "files_sha256": ""}
TESTED = {"split": "test", "data": "dolos", "generators": ["ldm"]}
"""Entries that are as they should be."""


@pytest.fixture(scope="module")
def task(clip) -> LocalizationTask:
    return LocalizationTask(str(clip), "layer1", decoder="light", image_size=64)


@pytest.fixture
def saved(task, tmp_path) -> Path:
    save(checkpoint_of(task), tmp_path / "saved")
    return tmp_path / "saved"


def rewrite(folder: Path, **changes) -> Path:
    """Change entries of a saved folder's description."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as raised:
        Localizer.from_pretrained(folder)
    message = str(raised.value)
    assert "\n" not in message and str(folder) in message
    return message


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ("image_size", 0, "a whole number from 1 to 4096"),
        ("image_size", -64, "a whole number from 1 to 4096"),
        ("image_size", 1_000_000, "a whole number from 1 to 4096"),
        ("image_size", 64.0, "a whole number from 1 to 4096"),
        ("image_size", True, "a whole number from 1 to 4096"),
        ("image_size", "64", "a whole number from 1 to 4096"),
        ("pooling", "median", "mean or mean-logit or max or top"),
        ("pooling", None, "mean or mean-logit or max or top"),
        ("supervision", "none", "full or weak"),
        ("encoder", ["openai/clip"], "class_path and init_args"),
        ("encoder", "", "class_path and init_args"),
        ("decoder", {"class_path": "light", "init_args": [1]}, "class_path and init_args"),
        ("layer", None, "a name"),
        ("layer", "layer1\x1b[2J", "a name"),
        ("layer", "layer" + "9" * 5000, "a name"),
        ("seed", -1, "a whole number from 0"),
        ("learning_rate", float("nan"), "a number from 0"),
        ("identity", None, "identity"),
        ("trained_on", {"generators": "ldm", "supervision": "full", "files_sha256": ""}, "list"),
        ("trained_on", {"generators": []}, "supervision"),
        ("trained_on", {**TRAINED, "photos": {"sides": None}}, "sides is None; expected two sides"),
        ("trained_on", {**TRAINED, "photos": {"sides": [9, 8]}}, "expected two sides in px"),
        ("trained_on", {**TRAINED, "photos": {"sides": [8, 9], "qualities": [1]}}, "two qualities"),
        ("tested_on", {"split": "train", "data": "", "generators": []}, "test or valid"),
        ("tested_on", {**TESTED, "untouched": [0.2, 0.1]}, "the lowest first"),
        ("tested_on", {**TESTED, "untouched": [0.5, 1.5]}, "numbers from 0 to 1"),
        ("tested_on", {**TESTED, "untouched": [0.5] * 1001}, "up to 1000 numbers"),
        ("tested_on", {**TESTED, "untouched": ["0.5"]}, "numbers from 0 to 1"),
        ("tested_on", {**TESTED, "notice": "a\x1b[2J"}, "words"),
        ("poolling", "mean", "unknown entry"),
        ("format", "2", "describes no localizer"),
        ("format", 99, "newer declip-pl"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_named(entry, value, expected, saved):
    message = refusal(rewrite(saved, **{entry: value}))
    assert expected in message and "\x1b" not in message


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ("decoder", "conv-5", "there is no decoder 'conv-5'"),
        ("decoder", {"class_path": "conv-4", "init_args": {"depth": 10**9}}, "depth"),
        ("decoder", "os.system", "code outside declip-pl"),
        ("decoder", {"class_path": "torch.nn.Linear", "init_args": {}}, "code outside declip-pl"),
        ("encoder", "subprocess.Popen", "code outside declip-pl"),
        ("encoder", {"class_path": "transformers", "init_args": {"name": 5}}, "expected text"),
        ("encoder", {"class_path": "transformers", "init_args": {}}, "missing"),
        ("layer", "layer" + "9" * 4000, "has no"),
        ("image_size", 100, "no multiple of the 16 px patches"),
    ],
)
def test_a_part_that_does_not_exist_or_fit_is_named(entry, value, expected, saved):
    with pytest.raises(UserError, match=expected) as raised:
        Localizer.from_pretrained(rewrite(saved, **{entry: value}))
    assert "\n" not in str(raised.value)


def test_nested_classes_are_no_code_either(saved):
    nested = {"class_path": "light", "init_args": {"shape": {"class_path": "os.system"}}}
    with pytest.raises(UserError, match="shape"):
        Localizer.from_pretrained(rewrite(saved, decoder=nested))


def test_what_is_no_module_is_not_built(saved, tmp_path, monkeypatch):
    """Also of a file that the user trusts, which may import what does harm when it is called."""
    (tmp_path / "trusted.py").write_text(
        "class Harm:\n    def __init__(self, shape):\n        raise SystemExit('harm')\n"
    )
    monkeypatch.setenv("DECLIP_PARTS", str(tmp_path / "trusted.py"))
    with pytest.raises(UserError, match=r"no torch\.nn\.Module"):
        Localizer.from_pretrained(rewrite(saved, decoder="trusted.Harm"))


@pytest.mark.parametrize("where", ["config.json", "config.yaml"])
def test_a_download_names_no_class(where, saved, clip, tmp_path, monkeypatch):
    """In its description it is refused before it is imported; a recipe beside it is not read."""
    (tmp_path / "harm_of_a_stranger.py").write_text("raise SystemExit('harm')\nclass Harm: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--someone--localizer"
    snapshot = repository / "snapshots" / ("0" * 40)
    harm = {"class_path": "harm_of_a_stranger.Harm"}
    entries = {"decoder": harm} if where == "config.json" else {}
    shutil.copytree(rewrite(saved, **entries), snapshot)
    (snapshot / "config.yaml").write_text(json.dumps({"trainer": {"callbacks": [harm]}}))
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    if entries:
        with pytest.raises(UserError, match="code outside declip-pl"):
            Localizer.from_pretrained("someone/localizer", encoder=str(clip))
    else:
        found = read_checkpoint("someone/localizer")
        assert run_of(found.path) is None  # whose recipe `test` would take
    assert "harm_of_a_stranger" not in sys.modules


PLACES = ["/etc", "~", "../secret", "secret", "RN50:/etc/passwd", "./secret+RN50", "a/../../etc"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("as_class", [False, True])
def test_a_download_names_no_path_of_this_machine(place, as_class, saved, tmp_path, monkeypatch):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/diary.txt").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub/models--someone--localizer"
    snapshot = repository / "snapshots" / ("0" * 40)
    encoder = {"class_path": "transformers", "init_args": {"name": place}} if as_class else place
    shutil.copytree(rewrite(saved, encoder=encoder), snapshot)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0" * 40)
    with pytest.raises(UserError, match=r"by a hub id, not by") as raised:
        Localizer.from_pretrained("someone/localizer")
    assert "diary" not in str(raised.value) and "\n" not in str(raised.value)


def test_a_users_own_path_does_for_a_download(saved, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub/models--someone--localizer/snapshots" / ("0" * 40)
    shutil.copytree(saved, folder)
    with pytest.raises(UserError, match="by a hub id, not by"):
        Localizer.from_pretrained(folder)
    Localizer.from_pretrained(folder, encoder=str(clip))


NO_CONFIGS = ["[" * 100_000, "{", "[]", "null", '"config"', "\udcff", "9" * 9999]


@pytest.mark.parametrize("text", NO_CONFIGS)
def test_what_is_no_config_is_refused(text, saved):
    (saved / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refusal(saved)


TEXT = st.text(max_size=8)
WORDS = ["/etc", "light", "RN50", "pixels", "layer0", "transformers", 10**9]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXT, inner, max_size=3)
        | st.fixed_dictionaries({"class_path": TEXT | st.just("light"), "init_args": inner})
    ),
    max_leaves=6,
)


def _paths(value, path=()):
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _paths(inner, (*path, key))


@given(data=st.data())
def test_any_change_of_a_config_gives_a_localizer_or_one_line(data, task, tmp_path):
    """Whatever stands anywhere in it, and whatever is missing or too much."""
    folder = tmp_path / "any"
    if not folder.exists():
        save(checkpoint_of(task), folder)
        shutil.copy(folder / "config.json", tmp_path / "valid.json")
    config = json.loads((tmp_path / "valid.json").read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        path = data.draw(st.sampled_from(list(_paths(config))))
        if not path:
            config = data.draw(st.sampled_from([config, {}])) | data.draw(
                st.dictionaries(st.text(max_size=8), JSON, max_size=2)
            )
            continue
        *above, last = path
        place = config
        for key in above:
            place = place[key]
        if data.draw(st.booleans()):
            place[last] = data.draw(JSON)
        else:
            del place[last]
    (folder / "config.json").write_text(json.dumps(config))
    try:
        network = load_network(read_checkpoint(folder))
    except UserError as error:
        assert "\n" not in str(error)
    else:
        size = network.encoder.preprocessing.image_size
        assert network(torch.zeros(1, 3, size, size)).isfinite().all()


# The weights


def test_zeros_in_the_place_of_weights_are_noticed(task, saved, tmp_path):
    """A tensor's payload, not the file's structure: both formats read such files without a word."""
    file = write_run(checkpoint_of(task), tmp_path / "model.ckpt")
    for path in (file, saved / "model.safetensors"):
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 4096] = bytes(4096)
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.ckpt is damaged: .* is not what was written"):
        read_checkpoint(file)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged .*SHA-256"):
        read_checkpoint(saved)


def test_a_folder_of_before_checksums_is_read(saved):
    config = json.loads((saved / "config.json").read_text())
    assert len(config.pop("weights_sha256")) == 64
    (saved / "config.json").write_text(json.dumps(config))
    read_checkpoint(saved)


@given(start=st.floats(0, 1), length=st.integers(1, 1 << 16), cut=st.booleans())
def test_a_damaged_file_is_refused_or_gives_the_same_weights(start, length, cut, task, tmp_path):
    """Zeros anywhere, and ends that are missing anywhere."""
    whole = checkpoint_of(task)
    save(whole, folder) if not (folder := tmp_path / "any").exists() else None
    for path in (write_run(whole, tmp_path / "any.ckpt"), folder / "model.safetensors"):
        content = path.read_bytes()
        first = int(start * len(content))
        rest = b"" if cut else bytes(min(length, len(content) - first)) + content[first + length :]
        path.write_bytes(content[:first] + rest)
        try:
            found = read_checkpoint(path if path.suffix == ".ckpt" else folder)
        except UserError as error:
            assert "\n" not in str(error)
        else:
            for name, weight in whole.weights.items():
                assert torch.equal(found.weights[name], weight)
        finally:
            path.write_bytes(content)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("kind", ["ckpt", "saved"])
def test_numbers_that_are_not_finite_are_refused(value, kind, task, tmp_path):
    weights = {name: weight.clone() for name, weight in task.network.decoder.state_dict().items()}
    name = next(iter(weights))
    weights[name] = weights[name].double()
    weights[name].view(-1)[0] = value
    checkpoint = checkpoint_of(task, weights=weights)
    if kind == "ckpt":
        path = write_run(checkpoint, tmp_path / "model.ckpt")
    else:
        save(checkpoint, path := tmp_path / "saved")
    with pytest.raises(UserError, match=rf"NaN or infinite numbers in the decoder's {name}"):
        read_checkpoint(path)


@pytest.mark.parametrize("damage", ["text", "sparse", "complex", "list"])
def test_weights_that_are_no_real_numbers_are_refused(damage, task, tmp_path):
    content = copy.deepcopy(content_of(checkpoint_of(task)))
    name, weight = next(iter(content["state_dict"].items()))
    content["state_dict"][name] = {
        "text": "a weight",
        "sparse": weight.to_sparse(),
        "complex": weight.to(torch.complex64),
        "list": [1.0],
    }[damage]
    torch.save(content, tmp_path / "model.ckpt")
    with pytest.raises(UserError, match="no tensor of real numbers"):
        read_checkpoint(tmp_path / "model.ckpt")


class Harm:
    """What a pickle may hold."""

    def __reduce__(self):
        return (Path("/nowhere/harm").touch, ())


@pytest.mark.parametrize(
    "read", [read_checkpoint, read_published, lambda path: load_resnet(path, "layer3")]
)
@pytest.mark.parametrize("kind", ["object", "module", "old format", "plain pickle", "garbage"])
def test_nobody_is_advised_to_run_what_a_file_holds(kind, read, tmp_path):
    """torch's own message says how to load it with ``weights_only=False``."""
    path = tmp_path / "model.ckpt"
    if kind == "garbage":
        path.write_bytes(bytes(range(256)) * 16)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(Harm()))
    else:
        old = kind == "old format"
        harm = {"state_dict": nn.Linear(2, 2) if kind == "module" else Harm()}
        torch.save(harm, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(UserError) as raised:
        read(path)
    message = str(raised.value)
    assert str(path) in message and "\n" not in message and "\x1b" not in message
    assert "weights_only" not in message and "can still be loaded" not in message
