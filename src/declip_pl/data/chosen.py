"""Which files each stage of training and testing sees."""

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import chain
from typing import Literal

from declip_pl.data.file_kinds import seen_photos
from declip_pl.data.forgeries.folder import ForgeryFolder
from declip_pl.data.forgeries.sources import Forgeries, PhotoFolders, index_of, layout_of
from declip_pl.data.index import DataIndex
from declip_pl.data.layout import (
    ALL,
    FORGERIES,
    NONE,
    REAL,
    SPLITS,
    Sample,
    Split,
    find_samples,
    has_reals,
    is_stand_in,
    mask_rule,
    mask_rule_key,
    samples,
    select_generators,
)
from declip_pl.data.masks import Polarity
from declip_pl.data.place import read_place
from declip_pl.data.stamps import Stamps, file_list_hash, files_of
from declip_pl.errors import UserError
from declip_pl.files import short_hash
from declip_pl.model.description import SeenPhotos, Supervision, TestedOn, TrainedOn
from declip_pl.parts import Spec
from declip_pl.records import json_hash

STAND_IN_NOTICE = (
    "mini is a stand-in made by simple inpainters from a few photos: "
    "these scores say nothing about Dolos"
)


class ChosenPhotos:
    """The photos of a data set that a choice of generators stands for, and forgeries.

    Args:
        root: The data set's folder or file, or ``LAYOUT:PATH``; ``none`` where there are only
            folders of photos to be forged.
        generator: The choice, see :class:`declip_pl.data.datamodule.LocalizationDataModule`.
        layout: How it is laid out, where its root does not say so.
        polarity: Which grey value of the masks means fake, in place of the layout's.
        supervision: ``full`` or ``weak``, which needs real photos.
        forgeries: Forgeries to train on as well.
        train_photos: How many of the generators' training photos are used; None for all.

    Attributes:
        generators: Those that are tested on.

    Raises:
        UserError: If there is no such data set or generator, or nothing to train on.
    """

    def __init__(
        self,
        root: str,
        generator: str,
        layout: Spec,
        polarity: Polarity | None,
        supervision: Supervision,
        forgeries: Forgeries | None,
        train_photos: int | None,
    ) -> None:
        if generator == NONE and forgeries is None:
            raise UserError(
                f"generator {NONE} trains on forgeries alone; say of which photos: --forgeries DIR "
                "(or own, for the data set's; in a recipe's data, forgeries: {photos: [DIR]})"
            )
        place = read_place(root)
        layout = place.layout or layout
        self.layout = layout_of(place.root, layout, forgeries)
        self.root = self.layout.root
        self.generator = generator
        self.generators = self._tested()
        self.mask_rule = mask_rule(self.layout, polarity)
        self.mask_rule_key = mask_rule_key(self.mask_rule, layout)
        self.supervision = supervision
        self.forgeries = forgeries
        self.train_photos = train_photos

    def _tested(self) -> list[str]:
        if not isinstance(self.layout, PhotoFolders):
            return select_generators(self.layout, ALL if self.generator == NONE else self.generator)
        if self.generator != NONE:
            raise UserError(
                f"there are no photos of {self.generator!r} without a data set (--data none): name "
                f"one, or train on forgeries alone (--generator {NONE})"
            )
        return []

    @property
    def trained_generators(self) -> list[str]:
        """The generators whose photos training sees."""
        return [] if self.generator == NONE else self.generators

    @property
    def weak(self) -> bool:
        """Whether training uses image labels only."""
        return self.supervision == "weak"

    @cached_property
    def has_reals(self) -> bool:
        """Whether there are real photos to test on."""
        return has_reals(self.layout, "test")

    @property
    def notice(self) -> str:
        """What everybody who sees scores on these data has to know."""
        return STAND_IN_NOTICE if is_stand_in(self.root) else ""

    def names(self, split: Split) -> list[str]:
        """Return a split's generators, and ``real`` where it has such photos or needs them.

        Beside forgeries training sees untouched photos as they are: next to no forgery is.
        """
        wanted = split != "train" or self.forgeries is not None
        seen = wanted and has_reals(self.layout, split)
        seen |= self.weak and split != "test"
        fakes = self.generators if split == "test" else self.trained_generators
        return [*fakes, *([REAL] if seen else [])]

    def files(self, split: Split, *generators: str) -> list[Sample]:
        """List the samples of some generators (or ``real``) in a split."""
        return samples(self.layout, split, *generators)

    def training_photos(self) -> list[Sample]:
        """List the data set's training photos: the generators', and real ones where they are seen.

        Raises:
            UserError: If ``train_photos`` are more than there are.
        """
        reals = [REAL] if REAL in self.names("train") else []
        fakes = self.files("train", *self.trained_generators)
        return [*self._as_many(fakes), *self.files("train", *reals)]

    def masked_training_photos(self) -> list[Sample]:
        """Return the generators' training photos, where there are any."""
        return self._as_many(find_samples(self.layout, "train", *self.trained_generators)[0])

    def _as_many(self, fakes: list[Sample]) -> list[Sample]:
        """Return as many as are used: as many of each generator, fewer always a part of more."""
        if self.train_photos is None:
            return fakes
        if self.train_photos > len(fakes):
            raise UserError(
                f"train_photos is {self.train_photos}, but {self.root} has {len(fakes)} training "
                f"photos of {self.generator}"
            )
        turns: Counter[str] = Counter()
        order = {}
        for sample in sorted(fakes, key=_draw):
            order[sample] = (turns[sample.generator], sample.generator)
            turns[sample.generator] += 1
        kept = set(sorted(fakes, key=order.__getitem__)[: self.train_photos])
        return [sample for sample in fakes if sample in kept]

    @cached_property
    def index(self) -> DataIndex:
        """What earlier runs have read of the files."""
        return index_of(self.layout)

    @cached_property
    def stamps(self) -> Stamps:
        """What the generators' files and the real ones are when they are first asked for."""
        names = (*self.generators, REAL)
        splits = (find_samples(self.layout, split, *names)[0] for split in SPLITS)
        self.index.stamps.add(files_of(chain.from_iterable(splits)))
        return self.index.stamps

    @cached_property
    def forged(self) -> ForgeryFolder | None:
        """The forgeries; those that are missing are made when they are first asked for."""
        if self.forgeries is None:
            return None
        folder = ForgeryFolder(self.layout, self.forgeries, self.index)
        for split in ("train", "valid"):
            made = chain.from_iterable(folder.samples(split))
            self.stamps.add(files_of(chain(made, folder.further_photos(split))))
        self.index.save()
        return folder

    def forged_samples(self, split: Split) -> list[list[Sample]]:
        """Return a split's forgeries, version by version; none where none are wanted."""
        return self.forged.samples(split) if self.forged else []

    def further_photos(self, split: Split) -> list[Sample]:
        """Return a split's untouched photos that the forgeries' folders add to the data set's."""
        return self.forged.further_photos(split) if self.forged else []

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the relative paths and sizes of the generators' files.

        Of the real photos', where training sees no generator's; without a data set of the contents
        of the photos, wherever they lie.
        """
        if isinstance(self.layout, PhotoFolders):
            return json_hash([source.sha256 for source in self.layout.sources])
        names = self.trained_generators or [REAL]
        splits = (find_samples(self.layout, split, *names)[0] for split in SPLITS)
        return file_list_hash(self.root, list(chain.from_iterable(splits)), self.stamps)

    @property
    def trained_on(self) -> TrainedOn:
        """What a model that trains on these data is trained on."""
        return TrainedOn(
            tuple(self.trained_generators) or (FORGERIES,),
            self.supervision,
            self.fingerprint,
            self.root.name,
            self.notice,
            self.forged.manifest.in_short if self.forged else None,
            sum(sample.mask is None for sample in self._seen_photos()),
            self._seen,
        )

    @cached_property
    def _seen(self) -> SeenPhotos | None:
        """Of what kind the files of the training photos are."""
        return seen_photos([sample.image for sample in self._seen_photos()])

    def tested_on(self, split: Literal["valid", "test"], untouched: tuple[float, ...]) -> TestedOn:
        """Return what a model is tested on with these data.

        Args:
            split: The photos' split.
            untouched: Scores of the untouched ones, the lowest first.
        """
        names = self.generators if split == "test" else self.trained_generators or [FORGERIES]
        return TestedOn(split, self.root.name, tuple(names), untouched, self.notice)

    def _seen_photos(self) -> Iterator[Sample]:
        yield from self.masked_training_photos()
        if REAL in self.names("train"):
            yield from find_samples(self.layout, "train", REAL)[0]
        yield from self.further_photos("train")
        yield from chain.from_iterable(self.forged_samples("train"))


def _draw(sample: Sample) -> str:
    """Return what orders photos as if they were drawn: the same order every time."""
    return short_hash(f"{sample.generator}/{sample.name}")
