"""How well similarities agree with people: Spearman correlation with their ratings."""

import collections
import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mural_jax.data.sources import named_images, tables
from mural_jax.evaluation.evaluators.base import ALL, SplitEvaluator, Evaluation, choose_languages
from mural_jax.evaluation.metrics.bootstrap import DRAWS
from mural_jax.evaluation.metrics.correlation import RatedEmbeddings, correlate_ratings, number_keys
from mural_jax.evaluation.split_data import SplitExamples, SplitData
from mural_jax.types import UserError

IMAGE = 'image'
PICTURES = ('image1', 'image2')  # The columns of sis_{val,test}.csv.
TOGETHER = 'all'  # the place of a language where none is known


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatedSimilarity(SplitEvaluator):
    """Spearman correlation, times 100, of ratings with the cosine of embeddings.

    With the sampled correlation of Crisscrossed Captions (Parekh et al. 2021, arXiv:2004.15020),
    see `correlation.sampled`: it has STS, two captions, SITS, a picture and a caption, and SIS,
    two pictures.

    task: in whose space. sides: what is compared, two kinds of text of an example or 'image'; the
    first one is the query. languages: those of the data, if none is named.
    ratings: a table of pairs where an example does not hold both sides: of two pictures, its
    columns image1 and image2 name pictures of the data set by the name of their file; of two
    texts, columns of the names of `sides` hold them. score: its column of ratings.
    """

    task: str
    sides: tuple[str, ...] = ('sentence1', 'sentence2')
    languages: tuple[str, ...] = (ALL,)
    ratings: str = ''
    score: str = 'agg_score'

    def __post_init__(self) -> None:
        super().__post_init__()
        images = self.sides.count(IMAGE)
        if len(self.sides) != 2:
            raise UserError(f'sides={self.sides} must be two kinds of text, or {IMAGE!r}.')
        if images == 2 and not self.ratings:
            raise UserError(
                'An example has one picture: for two give ratings=FILE, such as sis_test.csv.'
            )
        if images == 1 and self.ratings:
            raise UserError(
                f'ratings={self.ratings} is of two pictures or of two texts; ratings of a picture '
                'and a text are read by `mural data ingest crisscrossed`.'
            )
        if images == 0 and self.ratings and (len(self.languages) != 1 or ALL in self.languages):
            raise UserError(f'{self.ratings} says no language: give languages, one.')

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: SplitData, languages: Sequence[str]) -> Evaluation:
        if not self.ratings:
            return self._examples(sources, languages)
        rows = read_ratings(self.ratings, self._columns, self.score)
        if IMAGE in self.sides:
            rated, language = self._pictures(sources, rows), TOGETHER
        else:
            rated, language = self._texts(sources, rows), self.languages[0]
        return Evaluation({language: correlate_ratings(rated, self.ratings)}, len(rows))

    @property
    def _columns(self) -> tuple[str, ...]:
        return PICTURES if IMAGE in self.sides else self.sides

    def _examples(self, sources: SplitData, languages: Sequence[str]) -> Evaluation:
        """Of a data set whose examples hold both sides and a score."""
        pictured = IMAGE in self.sides
        kinds = [side for side in self.sides if side != IMAGE]
        items = [sources.items(self.dataset, self.split, kind, images=pictured) for kind in kinds]
        results = {}
        for language in choose_languages(self, languages, items[0]):
            found = [
                place
                for place in range(len(items[0].ids))
                if all(one.names[place].get(language) for one in items)
            ]
            texts = [[one.names[place][language] for place in found] for one in items]
            ids = [items[0].ids[place] for place in found]
            self._check(ids, texts, pictured)
            vectors = [_embedded(sources, self.task, own) for own in texts]
            keys: Sequence[Hashable] = texts[0]
            if pictured:
                image = self.sides.index(IMAGE)
                vectors.insert(image, self._images(sources, items[0], found))
                keys = ids if image == 0 else keys
            rated = RatedEmbeddings(
                vectors[0], vectors[1], items[0].score_N[found], number_keys(keys)
            )
            results[language] = correlate_ratings(rated, f'{self.dataset}:{self.split}')
        return Evaluation(results, len(items[0].ids))

    def _check(self, ids: list[str], texts: list[list[str]], pictured: bool) -> None:
        """Raises UserError where pairs were read twice.

        A picture of COCO has two captions of the same words now and then, so that of pictures only
        a set counts in which no pair is alone.
        """
        keys = list(zip(ids, *texts)) if pictured else ids
        counts = collections.Counter(keys)
        twice = [key for key, count in counts.items() if count > 1]
        if len(twice) == len(counts) if pictured else twice:
            raise _doubled(f'{self.dataset}:{self.split}', twice)

    def _images(
        self, sources: SplitData, items: SplitExamples, places: Sequence[int]
    ) -> np.ndarray:
        """The pictures at some places, float32 [P, D]; those of one id are embedded once."""
        first: dict[str, int] = {}
        for place in places:
            first.setdefault(items.ids[place], place)
        order = {name: row for row, name in enumerate(first)}
        vector_ND = sources.embedder.images(self.task, select_examples(items, [*first.values()]))
        return vector_ND[[order[items.ids[place]] for place in places]]

    def _pictures(self, sources: SplitData, rows: list['RatedPair']) -> RatedEmbeddings:
        items = sources.items(self.dataset, self.split, '', images=True)
        places = {named_images.base_name(name): place for place, name in enumerate(items.ids)}
        names = [[named_images.base_name(name) for name in row.sides] for row in rows]
        missing = sorted({name for pair in names for name in pair if name not in places})
        if missing:
            raise UserError(
                f'{len(missing)} pictures that {self.ratings} rates are not in {self.dataset}:'
                f'{self.split}, such as {missing[0]}. Name the data set and the split whose ids '
                'are these files.'
            )
        wanted = [[places[name] for name in side] for side in zip(*names)]
        image_ND = self._images(sources, items, wanted[0] + wanted[1])
        left_PD, right_PD = np.split(image_ND, 2)
        return RatedEmbeddings(
            left_PD, right_PD, _ratings(rows), number_keys([pair[0] for pair in names])
        )

    def _texts(self, sources: SplitData, rows: list['RatedPair']) -> RatedEmbeddings:
        left, right = ([row.sides[side] for row in rows] for side in (0, 1))
        left_PD, right_PD = (_embedded(sources, self.task, texts) for texts in (left, right))
        return RatedEmbeddings(left_PD, right_PD, _ratings(rows), number_keys(left))

    def protocol(self) -> dict[str, Any]:
        more = {'ratings': self.ratings, 'rating': self.score} if self.ratings else {}
        return (
            self.about()
            | more
            | {
                'name': 'semantic similarity',
                'head': self.task,
                'compared': list(self.sides),
                'spearman': 'correlation, times 100, of the ranks of ratings and of cosines; ties '
                'have the mean of their ranks',
                'spearman_bootstrap': f'mean and standard deviation of {DRAWS} samples, each of half '
                f'of the queries (each {self.sides[0]}) and one pair of each '
                '(Parekh et al. 2021, arXiv:2004.15020)',
            }
        )


class RatedPair(NamedTuple):
    """One rating of a table."""

    sides: tuple[str, str]
    rating: float


def read_ratings(path: str, columns: tuple[str, ...], score: str) -> list[RatedPair]:
    """The rows of a table, in their order. Raises UserError where a pair or a rating is missing,
    a rating is no number, or a pair is there twice; the two sides may change places."""
    rows = []
    for number, row in enumerate(tables.read_rows(path, (*columns, score)), 1):
        sides = tuple(str(row.get(column) or '') for column in columns)
        rating = _number(row.get(score))
        if not all(sides) or not math.isfinite(rating):
            raise UserError(
                f'{path}, row {number}: {columns[0]}, {columns[1]} and a number as {score} are '
                f'needed, there is {[*sides, row.get(score)]}. Take the row out.'
            )
        rows.append(RatedPair(sides, rating))  # type: ignore[arg-type]
    twice = [
        pair for pair, count in collections.Counter(r.sides for r in rows).items() if count > 1
    ]
    if twice:
        raise _doubled(path, twice)
    return rows


def select_examples(items: SplitExamples, places: Sequence[int]) -> SplitExamples:
    """Some of the items with their pictures, in this order."""

    def decode(start: int, stop: int) -> Any:
        rows = [items.decode(place, place + 1) for place in places[start:stop]]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

    return SplitExamples(
        [items.ids[i] for i in places],
        [items.texts[i] for i in places],
        items.label_N[places],
        items.score_N[places],
        [items.png[i] for i in places],
        decode,
    )


def _embedded(sources: SplitData, task: str, texts: Sequence[str]) -> np.ndarray:
    """Texts -> float32 [P, D]; equal ones are embedded once."""
    different = list(dict.fromkeys(texts))
    return sources.embedder.texts(task, different)[number_keys(texts)]


def _ratings(rows: Sequence[RatedPair]) -> np.ndarray:
    return np.array([row.rating for row in rows])


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _doubled(where: str, twice: Sequence[Any]) -> UserError:
    return UserError(
        f'{where} rates {len(twice)} pairs more than once, such as {twice[0]}: they would count '
        'twice. Give each file once, and one rating of a pair.'
    )
