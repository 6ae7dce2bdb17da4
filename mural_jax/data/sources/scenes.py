"""Scenes composed of emoji: what stands where is known exactly. Composed, not natural."""

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

CELLS = 3  # on each side of the canvas; an object stands in one of them
SMALLEST = 0.7  # of a cell, an object; the largest fills it
PART = 500  # scenes that are made by one random generator
ENGLISH = 'en'
TAGS = 'tags'


class NamedEmoji(NamedTuple):
    """An emoji of the closed set: its picture on white and its name in each language."""

    picture: Image.Image
    names: Mapping[str, str]


class PlacedEmoji(NamedTuple):
    """An object of a scene: which of the set, and its box in pixels."""

    number: int
    left: int
    top: int
    side: int

    @property
    def middle(self) -> tuple[float, float]:
        return self.left + self.side / 2, self.top + self.side / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scenes(Reader):
    """Scenes of a few emoji on a canvas, with boxes, classes and a template caption.

    The class of a region is the number of its emoji in a closed set. A caption in English says
    how each object stands to the next one ("cat left of car above key"), in another language it is
    the list of their names. Splits hold other sets of objects: no test scene shows what a training
    scene shows, in whatever places. Drawn with Noto Color Emoji, named by Unicode CLDR.

    languages: of the captions; empty takes English alone.
    count: scenes of the split train.
    test_count: scenes of the splits validation and test, each.
    objects: emoji in the closed set.
    most: objects in a scene, at most; at least 2.
    size: side of a scene in pixels.
    seed: of all that is random.
    tags: whether the names of the objects in English stand beside, as a text of the kind `tags`.
    font: the font's file.
    cldr: the folder with names.
    unicode: the folder with classes.
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
        """Parts are named by their split and number; {'train': ['train-0', ...], ...}."""
        self._check()
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
        whole = self.count if split == 'train' else self.test_count
        salt = ('train', 'validation', 'test').index(split)
        rng = np.random.default_rng([self.seed, salt, number])
        for place in range(number * PART, min(whole, (number + 1) * PART)):
            yield self._example(f'{split}-{place}', self._composed(rng, split))

    def _check(self) -> None:
        if min(self.count, self.test_count) < 1:
            raise UserError('--count and --test_count must be at least 1.')
        if not 2 <= self.most <= CELLS**2:
            raise UserError(f'--most {self.most} must be 2 to {CELLS**2}: a cell for each object.')
        if self.objects < self.most + 2:
            raise UserError(
                f'--objects {self.objects} are too few for scenes of up to {self.most} that differ '
                'between splits.'
            )
        if self.size < 16 * CELLS:
            raise UserError(f'--size {self.size} is too small; give at least {16 * CELLS} pixels.')

    @property
    def _languages(self) -> tuple[str, ...]:
        return self.languages or (ENGLISH,)

    @functools.cached_property
    def things(self) -> list[NamedEmoji]:
        """The closed set, the same for every seed: one word in English, every language named.

        Raises UserError where there are too few.
        """
        painter = Painter(Path(self.font), self.size // CELLS)
        wanted = dict.fromkeys((ENGLISH, *self._languages))
        names = {language: cldr.read_annotations(Path(self.cldr), language) for language in wanted}
        table = [
            emoji for emoji in cldr.read_emoji_table(Path(self.unicode)) if emoji.group != 'Flags'
        ]
        table.sort(key=lambda emoji: hashlib.sha256(emoji.id.encode()).digest())
        found: dict[str, NamedEmoji] = {}
        for emoji in table:
            key = emoji.char.replace(cldr.VARIATION_SELECTOR, '')
            if any(key not in named for named in names.values()):
                continue
            own = {language: named[key][0] for language, named in names.items()}
            png = painter.png(emoji.char) if own[ENGLISH].isalpha() else None
            if png:
                picture = Image.open(io.BytesIO(png)).convert('RGB')
                found.setdefault(own[ENGLISH], NamedEmoji(picture, own))
            if len(found) == self.objects:
                return list(found.values())
        raise UserError(
            f'There are {len(found)} emoji with a name of one word in English and a name in '
            f'{", ".join(wanted)}; --objects {self.objects} are asked for. Give fewer.'
        )

    def _composed(self, rng: np.random.Generator, split: str) -> list[PlacedEmoji]:
        """A scene whose set of objects belongs to the split, in reading order of the caption."""
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
            row, column = divmod(int(place), CELLS)
            placed.append(
                PlacedEmoji(int(number), column * cell + int(left), row * cell + int(top), side)
            )
        return placed

    def _example(self, name: str, placed: list[PlacedEmoji]) -> Example:
        canvas = Image.new('RGB', (self.size, self.size), 'white')
        for item in placed:
            picture = self.things[item.number].picture
            canvas.paste(picture.resize((item.side, item.side)), (item.left, item.top))
        stream = io.BytesIO()
        canvas.save(stream, 'PNG', compress_level=0)
        boxes = [
            [edge / self.size for edge in (i.left, i.top, i.left + i.side, i.top + i.side)]
            for i in placed
        ]
        texts = [self._caption(language, placed) for language in self._languages]
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

    def _caption(self, language: str, placed: list[PlacedEmoji]) -> Text:
        words = [self.things[item.number].names[language] for item in placed]
        if language != ENGLISH:
            return language, 'caption', ', '.join(words)
        text = words[0]
        for before, after, word in zip(placed, placed[1:], words[1:]):
            text += f' {_describe_relation(before, after)} {word}'
        return language, 'caption', text


def _describe_relation(left: PlacedEmoji, right: PlacedEmoji) -> str:
    """How the first stands to the second, by the larger of their two distances."""
    across, down = (b - a for a, b in zip(left.middle, right.middle))
    if abs(across) >= abs(down):
        return 'left of' if across > 0 else 'right of'
    return 'above' if down > 0 else 'below'


def _split_of(numbers: np.ndarray) -> str:
    """The split that a set of objects belongs to: one of ten each for validation and test."""
    digest = hashlib.sha256(','.join(map(str, sorted(numbers.tolist()))).encode()).digest()
    return {0: 'validation', 1: 'test'}.get(digest[0] % 10, 'train')
