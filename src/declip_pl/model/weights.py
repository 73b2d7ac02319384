"""Where frozen weights come from: a local folder, the hub, or the mirror of one encoder.

Whatever the place, what is handed on is a local folder or file, so that loading it needs no
network, and one phrase that names the place for checkpoints and results.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

import huggingface_hub
from huggingface_hub import errors as hub_errors

from declip_pl.errors import UserError
from declip_pl.model.mirror import (
    MIRROR_SOURCE,
    MIRRORED,
    ROUNDED,
    build_mirror,
    checked_folder,
    mirror_folder,
    say_once,
)

FOLDER = "folder "
"""Before the path in the source of weights from a local folder."""

RN50_REPOSITORY = "timm/resnet50_clip.openai"
RN50_FILE = "open_clip_model.safetensors"

PROBE_SECONDS = 4
"""How long the hub may take to answer before it counts as out of reach."""

_HUB_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in the order transformers prefers
# HTTPError of httpx or httpx2, by the client's version, and OSError.
_HUB_FAILURES: tuple[type[Exception], ...] = hub_errors.HfHubHTTPError.__bases__
_UPLOAD_FAILURES: tuple[type[Exception], ...] = (*_HUB_FAILURES, hub_errors.HFValidationError)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


class _NoSuchFileError(UserError):
    """The repository exists, the file in it does not."""


@dataclass(frozen=True)
class Weights:
    """Frozen weights that are on this machine.

    Attributes:
        path: A local folder for ``from_pretrained``; of an RN50, a file.
        source: Where they came from, in words, for checkpoints and results.
        name: What they were looked up by.
        rounded: Whether matrices are rounded to int8 on loading, as the mirror's were.
    """

    path: str
    source: str
    name: str
    rounded: bool = False


def resolve(encoder: str) -> Weights:
    """Find the weights of a CLIP vision tower, downloading them where that is needed.

    What is on this machine comes before the network, so an encoder never changes silently
    between two runs: a local folder, the hub's cache, a mirror built before, the hub, and for
    ``openai/clip-vit-base-patch16`` a new mirror.

    Args:
        encoder: A hub id such as ``openai/clip-vit-large-patch14``, or a folder with
            ``config.json`` and ``*.safetensors``.

    Raises:
        UserError: If the folder holds no weights, the hub does not know the id, or the hub can't
            be reached (after about four seconds).
    """
    folder = Path(encoder).expanduser()
    if folder.is_dir():
        return _from_folder(encoder)
    cached = _cached_snapshot(encoder)
    if cached:
        return _from_snapshot(cached, encoder)
    if encoder == MIRRORED and mirror_folder().is_dir():
        return _from_mirror()
    if hub_reachable():
        return _from_snapshot(_download_snapshot(encoder), encoder)
    if encoder == MIRRORED:
        return _from_mirror()
    raise _unreachable(encoder, "a local folder (--encoder /path/to/folder; make: ENCODER=)")


def resolve_resnet(spec: str) -> Weights:
    """Find the weights of CLIP's RN50.

    Args:
        spec: ``RN50`` (from the hub or its cache) or ``RN50:FILE``.

    Raises:
        UserError: If the file does not exist or the hub can't be reached.
    """
    name, _, file = spec.partition(":")
    if name != "RN50" or spec == "RN50:":
        raise UserError(f"unknown encoder {spec!r}: expected RN50 or RN50:/path/to/file")
    if file:
        return _local_file(Path(file).expanduser(), spec)
    source = f"hub {RN50_REPOSITORY}"
    cached = _cached(RN50_REPOSITORY, RN50_FILE)
    if not cached and not hub_reachable():
        raise _unreachable(RN50_REPOSITORY, f"a local file (RN50:/path/to/{RN50_FILE})")
    return Weights(str(cached or download(RN50_REPOSITORY, RN50_FILE)), source, spec)


def places(encoder: str, trusted: bool = True) -> Iterator[Weights | UserError]:
    """Yield the weights of one encoder from every place that may have them, this machine's first.

    Nothing is downloaded before it is asked for. What a place fails with is yielded as well.

    Args:
        encoder: What :func:`resolve` or :func:`resolve_resnet` takes.
        trusted: Whether the name may be a path of this machine.
    """
    if not trusted and encoder != "RN50" and not _HUB_ID.fullmatch(encoder):
        yield UserError(
            f"a localizer from the hub names its encoder by a hub id, not by {encoder!r}"
        )
    elif encoder == "RN50" or encoder.startswith("RN50:"):
        yield _attempt(lambda: resolve_resnet(encoder))
    elif trusted and Path(encoder).expanduser().is_dir():
        yield _attempt(lambda: _from_folder(encoder))
    else:
        yield from _places_by_id(encoder)


def places_of_folder(folder: Path) -> Iterator[Weights | UserError]:
    """Yield the weights of a folder on record: there, and in the hub's cache by the same name."""
    if folder.is_dir():
        yield _attempt(lambda: _from_folder(str(folder)))
    separator = huggingface_hub.constants.REPO_ID_SEPARATOR
    pattern = f"models{separator}*{separator}{escape(folder.name)}"
    for cached in sorted(Path(huggingface_hub.constants.HF_HUB_CACHE).glob(pattern)):
        encoder = "/".join(cached.name.split(separator)[1:])
        yield from (_from_snapshot(path, encoder) for path in _cached_snapshots(encoder))


def is_download(path: Path) -> bool:
    """Whether a file or folder lies in the hub's cache, so that it came from others."""
    return path.absolute().is_relative_to(Path(huggingface_hub.constants.HF_HUB_CACHE).absolute())


def hub_reachable() -> bool:
    """Tell within about four seconds whether the Hugging Face hub answers.

    The hub's own client retries for over 20 s, with warnings, where names do not resolve.
    ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and the proxy variables are respected.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    answers: list[bool] = []
    probe = threading.Thread(target=lambda: answers.append(_probe()), daemon=True)
    probe.start()
    probe.join(PROBE_SECONDS)  # a time-out of the socket would not bound the look-up of the name
    return answers == [True]


def download(repository: str, file: str, revision: str | None = None) -> Path:
    """Fetch a file of a repository from the hub, or take it from the hub's cache.

    Args:
        repository: Its id.
        file: Its path there.
        revision: A commit, branch or tag; by default the main branch.

    Raises:
        UserError: If the hub does not have it, refuses it, or can't be reached.
    """
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except hub_errors.GatedRepoError as error:
        raise UserError(
            f"{repository} is gated: accept its terms on the Hugging Face hub and log in with "
            "`hf auth login`, or pass a local folder"
        ) from error
    except hub_errors.RevisionNotFoundError as error:
        raise UserError(f"{repository} on the hub has no revision {revision}") from error
    except hub_errors.RepositoryNotFoundError as error:
        raise UserError(f"the Hugging Face hub has no {repository}, or it is private") from error
    except hub_errors.LocalEntryNotFoundError as error:  # a kind of EntryNotFoundError
        raise _unreachable(repository, "a local copy") from error
    except hub_errors.EntryNotFoundError as error:
        raise _NoSuchFileError(f"{repository} on the Hugging Face hub has no {file}") from error
    except _HUB_FAILURES as error:  # also a connection that drops half-way
        raise UserError(f"the Hugging Face hub failed for {repository}: {error}") from error


def snapshot(repository: str, *files: str) -> Path:
    """Return the folder of a repository's files: the hub's, or where it is out of reach the cached.

    All are of one commit: that of the first, by which the folder is called, or ``NAME@REVISION``.

    Raises:
        UserError: If the hub does not have one or refuses it; if it can't be reached and not all
            are in its cache.
    """
    fetch = download if hub_reachable() else _cached
    folder, (repository, _, revision) = Path(), repository.partition("@")
    for file in files:
        if not (path := fetch(repository, file, revision or None)):
            raise _unreachable(repository, "a local folder")
        folder, revision = path.parent, path.parent.name
    return folder


def upload(folder: Path, repository: str, private: bool = False) -> str:
    """Publish the files of a folder on the hub, in a repository that is made if need be.

    Returns:
        The address of the repository.

    Raises:
        UserError: If nobody is logged in, the name is none, or the hub refuses or can't be reached.
    """
    api = huggingface_hub.HfApi()
    if huggingface_hub.get_token() is None:
        raise UserError("not logged in to the Hugging Face hub: run `hf auth login` first")
    try:
        address = api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except _UPLOAD_FAILURES as error:
        raise UserError(f"the Hugging Face hub failed for {repository}: {error}") from error
    return str(address)


def _probe() -> bool:
    # The hub's own client, so that its certificates, proxies and hooks are the ones tested.
    try:
        huggingface_hub.get_session().head(
            huggingface_hub.constants.ENDPOINT, timeout=PROBE_SECONDS
        )
    except Exception:  # of httpx or httpx2, by the client's version; all mean the same here
        return False
    return True  # a refusal is an answer as well


def _places_by_id(encoder: str) -> Iterator[Weights | UserError]:
    try:
        originals = [_from_snapshot(path, encoder) for path in _cached_snapshots(encoder)]
    except UserError as error:
        yield error
        return
    yield from originals
    has_mirror = encoder == MIRRORED and mirror_folder().is_dir()
    if has_mirror:
        yield _attempt(_from_mirror)
    yield from _rounded(originals)
    fetched = _attempt(lambda: _fetched(encoder))
    if fetched not in originals:
        yield fetched
        yield from _rounded([fetched])
    if encoder == MIRRORED and not has_mirror:
        yield _attempt(_from_mirror)


def _rounded(originals: Sequence[Weights | UserError]) -> Iterator[Weights]:
    """Yield what becomes of originals if they are rounded as the mirror's weights were."""
    for found in originals:
        if isinstance(found, Weights) and found.name == MIRRORED:
            yield replace(found, source=f"{found.source}, {ROUNDED}", rounded=True)


def _attempt(find: Callable[[], Weights]) -> Weights | UserError:
    try:
        return find()
    except UserError as error:
        return error


def _fetched(encoder: str) -> Weights:
    if not hub_reachable():
        raise _unreachable(encoder, "a local folder")
    return _from_snapshot(_download_snapshot(encoder), encoder)


def _from_snapshot(folder: str, encoder: str) -> Weights:
    return Weights(folder, f"hub {encoder}", encoder)


def _from_folder(encoder: str) -> Weights:
    folder = Path(encoder).expanduser()
    return Weights(str(checked_folder(folder)), f"{FOLDER}{folder.resolve()}", encoder)


def _from_mirror() -> Weights:
    folder = build_mirror()
    say_once(f"{MIRRORED} comes from the {MIRROR_SOURCE}, in {folder}")
    return Weights(str(folder), MIRROR_SOURCE, MIRRORED)


def _local_file(path: Path, spec: str) -> Weights:
    if not path.is_file():
        raise UserError(f"no RN50 weights at {path}: no such file")
    return Weights(str(path), f"file {path.resolve()}", spec)


def _unreachable(name: str, instead: str) -> UserError:
    return UserError(f"cannot reach the Hugging Face hub for {name}: connect, or pass {instead}")


def _cached(repository: str, file: str, revision: str | None = None) -> Path | None:
    try:
        path = huggingface_hub.try_to_load_from_cache(repository, file, revision=revision)
    except hub_errors.HFValidationError as error:
        raise UserError(
            f"{repository} is neither a folder on this machine nor an id on the Hugging Face hub "
            "(ORGANISATION/NAME)"
        ) from error
    return Path(path) if isinstance(path, str) else None  # also a marker for "known to be absent"


def _cached_snapshot(repository: str) -> str | None:
    config = _cached(repository, "config.json")
    return str(config.parent) if config and _has_weights(config.parent) else None


def _cached_snapshots(repository: str) -> list[str]:
    """Return the folders of all versions of a repository in the hub's cache, the latest first."""
    latest = _cached_snapshot(repository)
    name = huggingface_hub.constants.REPO_ID_SEPARATOR.join(["models", *repository.split("/")])
    versions = (Path(huggingface_hub.constants.HF_HUB_CACHE) / name / "snapshots").glob("*")
    older = [str(folder) for folder in sorted(versions) if _has_weights(folder)]
    return list(dict.fromkeys([latest, *older] if latest else older))


def _has_weights(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(
        (folder / name).is_file() for name in _HUB_WEIGHTS
    )


def _download_snapshot(repository: str) -> str:
    config = download(repository, "config.json")
    for name in _HUB_WEIGHTS:
        try:
            download(repository, name, config.parent.name)  # of the same commit
        except _NoSuchFileError:
            continue
        return str(config.parent)
    raise UserError(f"{repository} on the Hugging Face hub has no {' or '.join(_HUB_WEIGHTS)}")
