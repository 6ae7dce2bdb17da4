"""Scenes composed of emoji, so that the objects and their places are known exactly.

They are composed, not natural images.
"""

import dataclasses
import functools
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from mural_jax.data.sources import cldr
from mural_jax.data.sources.cldr import DEFAULT_SOURCES
from mural_jax.data.sources.painter import Painter
from mural_jax.data.sources.reader import Example, ImageRegions, Reader, Text
from mural_jax.types import UserError

CELLS = 3  # Cells along each side of the canvas; each object is in a cell of its own.
SMALLEST = 0.7  # Side of the smallest object, as a share of the cell; the largest fills it.
PART = 500  # Scenes in a part; each part has a random generator of its own.
ENGLISH = 'en'
TAGS = 'tags'


class NamedEmoji(NamedTuple):
    """An emoji of the closed set: its image on white and its name in each language."""

    image: Image.Image
    names: Mapping[str, str]


class PlacedEmoji(NamedTuple):
    """An object of a scene: its number in the closed set, and its box in pixels."""

    number: int
    left: int
    top: int
    side: int

    @property
    def middle(self) -> tuple[float, float]:
        """(x, y) of the middle of the box."""
        return self.left + self.side / 2, self.top + self.side / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(Reader):
    """Scenes of a few emoji on a canvas, with boxes, classes and a template caption.

    The class of a region is the number of its emoji in a closed set. An English caption says where
    each object is relative to the next one ("cat left of car above key"); a caption in another
    language lists the names of the objects. No test scene has the same set of objects as a
    training scene, even in other places. The emoji are drawn with Noto Color Emoji and named by
    Unicode CLDR.

    languages: Languages of the captions; without the flag English alone.
    count: Number of scenes in the split train.
    test_count: Number of scenes in each of the splits validation and test.
    objects: Number of emoji in the closed set.
    most: Largest number of objects in a scene, at least 2.
    size: Side of a scene in pixels.
    seed: Seed of the random choices.
    tags: Add the English names of the objects to each scene, as a text of the kind "tags".
    font: Font file that draws the emoji.
    cldr: Folder with the names of the emoji.
    unicode: Folder with the list of the emoji.
    """

    default_kinds: ClassVar[tuple[str, ...]] = ('caption',)

    count: int = 20000
    test_count: int = 1000
    objects: int = 100
    most: int = 4
    size: int = 96
    seed: int = 0
    tags: bool = False
    font: str = DEFAULT_SOURCES['font']
    cldr: str = DEFAULT_SOURCES['cldr']
    unicode: str = DEFAULT_SOURCES['unicode']

    def splits(self) -> Mapping[str, Sequence[str]]:
        """As in Reader; split and number name a part: {'train': ['train-0', ...], ...}."""
        self._check_flags()
        counts = {'train': self.count, 'validation': self.test_count, 'test': self.test_count}
        return {
            split: [f'{split}-{part}' for part in range(-(-count // PART))]
            for split, count in counts.items()
        }

    def vocabulary(self) -> tuple[list[str], list[str]]:
        languages = {*self._languages, *([ENGLISH] if self.tags else [])}
        return sorted(languages), ['caption', *([TAGS] if self.tags else [])]

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        number = int(part.rpartition('-')[2])
        total = self.count if split == 'train' else self.test_count
        # A generator for each part: parts can be composed in parallel, and a larger --count only
        # adds scenes.
        salt = ('train', 'validation', 'test').index(split)
        rng = np.random.default_rng([self.seed, salt, number])
        for place in range(number * PART, min(total, (number + 1) * PART)):
            yield self._make_example(f'{split}-{place}', self._compose(rng, split))

    def _check_flags(self) -> None:
        if min(self.count, self.test_count) < 1:
            raise UserError('--count and --test_count must be at least 1.')
        if not 2 <= self.most <= CELLS**2:
            raise UserError(
                f'--most {self.most} must be 2 to {CELLS**2}: each object has a cell of its own.'
            )
        if self.objects < self.most + 2:
            raise UserError(
                f'--objects {self.objects} is too few: scenes of up to {self.most} objects would '
                'not differ between splits.'
            )
        if self.size < 16 * CELLS:
            raise UserError(f'--size {self.size} is too small; give at least {16 * CELLS} pixels.')

    @property
    def _languages(self) -> tuple[str, ...]:
        return self.languages or (ENGLISH,)

    @functools.cached_property
    def things(self) -> list[NamedEmoji]:
        """The closed set: emoji with a one-word name in English and a name in every language.

        It is the same for every seed.

        Raises:
          UserError: There are too few of these emoji.
        """
        painter = Painter(Path(self.font), self.size // CELLS)
        wanted = dict.fromkeys((ENGLISH, *self._languages))
        names = {language: cldr.read_annotations(Path(self.cldr), language) for language in wanted}
        table = [
            emoji for emoji in cldr.read_emoji_table(Path(self.unicode)) if emoji.group != 'Flags'
        ]
        # An order that is stable but unrelated to the groups of Unicode's list.
        table.sort(key=lambda emoji: hashlib.sha256(emoji.id.encode()).digest())
        chosen: dict[str, NamedEmoji] = {}
        for emoji in table:
            key = emoji.char.replace(cldr.VARIATION_SELECTOR, '')
            if any(key not in annotations for annotations in names.values()):
                continue
            own = {language: annotations[key][0] for language, annotations in names.items()}
            png = painter.draw_png(emoji.char) if own[ENGLISH].isalpha() else None
            if png:
                image = Image.open(io.BytesIO(png)).convert('RGB')
                chosen.setdefault(own[ENGLISH], NamedEmoji(image, own))
            if len(chosen) == self.objects:
                return list(chosen.values())
        raise UserError(
            f'There are {len(chosen)} emoji with a name of one word in English and a name in '
            f'{", ".join(wanted)}, fewer than --objects {self.objects}. Give a smaller number.'
        )

    def _compose(self, rng: np.random.Generator, split: str) -> list[PlacedEmoji]:
        """A scene whose set of objects belongs to the split, in the order of the caption."""
        # Draws sets until one belongs to the split, about ten draws for a test split.
        while True:
            count = rng.integers(2, self.most + 1)
            numbers = rng.permutation(self.objects)[:count]
            if _split_of(numbers) == split:
                break
        cell = self.size // CELLS
        placed = []
        for number, place in zip(numbers, rng.permutation(CELLS**2)):
            side = int(rng.integers(round(SMALLEST * cell), cell + 1))
            left, top = rng.integers(0, cell - side + 1, 2)
            # Cells are numbered row by row.
            row, column = divmod(int(place), CELLS)
            placed.append(
                PlacedEmoji(int(number), column * cell + int(left), row * cell + int(top), side)
            )
        return placed

    def _make_example(self, name: str, placed: list[PlacedEmoji]) -> Example:
        canvas = Image.new('RGB', (self.size, self.size), 'white')
        for item in placed:
            image = self.things[item.number].image
            canvas.paste(image.resize((item.side, item.side)), (item.left, item.top))
        stream = io.BytesIO()
        # Stored, not deflated, since it decodes faster.
        canvas.save(stream, 'PNG', compress_level=0)
        boxes = [
            [edge / self.size for edge in (i.left, i.top, i.left + i.side, i.top + i.side)]
            for i in placed
        ]
        texts = [self._make_caption(language, placed) for language in self._languages]
        if self.tags:
            names = (self.things[item.number].names[ENGLISH] for item in placed)
            texts.append((ENGLISH, TAGS, ', '.join(names)))
        return Example(
            id=name,
            where=name,
            texts=texts,
            image=stream.getvalue(),
            regions=ImageRegions(boxes, [item.number for item in placed]),
        )

    def _make_caption(self, language: str, placed: list[PlacedEmoji]) -> Text:
        words = [self.things[item.number].names[language] for item in placed]
        if language != ENGLISH:
            return language, 'caption', ', '.join(words)
        text = words[0]
        for before, after, word in zip(placed, placed[1:], words[1:]):
            text += f' {_describe_relation(before, after)} {word}'
        return language, 'caption', text


def _describe_relation(left: PlacedEmoji, right: PlacedEmoji) -> str:
    """Where the first object is relative to the second, along the axis of the larger distance."""
    across, down = (b - a for a, b in zip(left.middle, right.middle))
    if abs(across) >= abs(down):
        return 'left of' if across > 0 else 'right of'
    return 'above' if down > 0 else 'below'


def _split_of(numbers: np.ndarray) -> str:
    """The split of a set of objects, by a hash: a tenth each for validation and test."""
    digest = hashlib.sha256(','.join(map(str, sorted(numbers.tolist()))).encode()).digest()
    return {0: 'validation', 1: 'test'}.get(digest[0] % 10, 'train')
