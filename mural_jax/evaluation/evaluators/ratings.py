"""Agreement of similarities with human ratings: Spearman correlation."""

import collections
import dataclasses
import math
from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from mural_jax.data.sources import named_images, tables
from mural_jax.evaluation.evaluators.base import ALL, Evaluation, SplitEvaluator, choose_languages
from mural_jax.evaluation.metrics.bootstrap import DRAWS
from mural_jax.evaluation.metrics.correlation import RatedEmbeddings, correlate_ratings, number_keys
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError

IMAGE = 'image'
IMAGE_COLUMNS = ('image1', 'image2')  # The columns of sis_{val,test}.csv.
TOGETHER = 'all'  # stands for the language in results of image pairs


class RatedPair(NamedTuple):
    """One rating in a table: two texts, or the file names of two images."""

    sides: tuple[str, str]
    rating: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatedSimilarity(SplitEvaluator):
    """Spearman correlation, times 100, of human ratings with the cosines of embeddings.

    It also gives the bootstrapped correlation of Crisscrossed Captions (Parekh et al. 2021,
    arXiv:2004.15020), see `metrics.correlation.bootstrap_correlations`. That data has STS, two
    captions, SITS, an image and a caption, and SIS, two images.

    space: the space whose embeddings are compared.
    sides: the two things compared, kinds of text of an example or 'image'; the first is the query.
    languages: the languages of the data, unless some are named.
    ratings: a table of pairs, needed if one example does not hold both sides. For two images its
    columns image1 and image2 hold the file names of images in the data set; for two texts the
    columns named in `sides` hold the texts.
    score: the column of ratings in that table.
    """

    headline: ClassVar[str] = 'spearman'

    space: str
    sides: tuple[str, ...] = ('sentence1', 'sentence2')
    languages: tuple[str, ...] = (ALL,)
    ratings: str = ''
    score: str = 'agg_score'

    def __post_init__(self) -> None:
        super().__post_init__()
        # An example has one image and many kinds of text, so sides decide where pairs come from.
        images = self.sides.count(IMAGE)
        if len(self.sides) != 2:
            raise UserError(f'sides={self.sides} must be two kinds of text, or {IMAGE!r}.')
        if images == 2 and not self.ratings:
            raise UserError(
                'An example has one image: for two give ratings=FILE, such as sis_test.csv.'
            )
        if images == 1 and self.ratings:
            raise UserError(
                f'ratings={self.ratings} must rate two images or two texts. Read ratings of an '
                'image and a text with `mural data ingest crisscrossed`.'
            )
        if images == 0 and self.ratings and (len(self.languages) != 1 or ALL in self.languages):
            raise UserError(
                f'{self.ratings} does not state its language: set languages to exactly one.'
            )

    def needs(self) -> dict[str, str]:
        return {'spaces': self.space}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        data.require_dense(self.space)
        if not self.ratings:
            return self._score_examples(data, languages)
        has_images = IMAGE in self.sides
        # CxC names the images of a pair image1 and image2; texts stand under their own kinds.
        columns = IMAGE_COLUMNS if has_images else self.sides
        pairs = read_ratings(self.ratings, columns, self.score)
        if has_images:
            rated, language = self._embed_image_pairs(data, pairs), TOGETHER
        else:
            rated, language = self._embed_text_pairs(data, pairs), self.languages[0]
        return Evaluation({language: correlate_ratings(rated, self.ratings)}, len(pairs))

    def _score_examples(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        """Scores a data set whose examples hold both sides and a rating."""
        has_image = IMAGE in self.sides
        kinds = [side for side in self.sides if side != IMAGE]
        # One reading for each kind of text: the same examples in the same order.
        by_kind = [
            data.read_examples(self.dataset, self.split, kind, images=has_image) for kind in kinds
        ]
        first, texts_of = by_kind[0], [examples.first_texts for examples in by_kind]
        results = {}
        for language in choose_languages(self, languages, first):
            places = [
                place
                for place in range(len(first.ids))
                if all(own[place].get(language) for own in texts_of)
            ]
            texts = [[own[place][language] for place in places] for own in texts_of]
            ids = [first.ids[place] for place in places]
            # Data that was ingested twice would count each pair twice.
            require_unique_pairs(ids, texts, has_image, self.where)
            vectors = [_embed_distinct(data, self.space, own) for own in texts]
            queries: Sequence[Hashable] = texts[0]
            if has_image:
                side = self.sides.index(IMAGE)
                # Back at its place among the sides: only texts were embedded so far.
                vectors.insert(side, self._embed_images(data, first, places))
                queries = ids if side == 0 else queries
            rated = RatedEmbeddings(
                vectors[0], vectors[1], first.score_N[places], number_keys(queries)
            )
            results[language] = correlate_ratings(rated, self.where)
        return Evaluation(results, len(first.ids))

    def _embed_images(
        self, data: SplitData, examples: SplitExamples, places: Sequence[int]
    ) -> np.ndarray:
        """Returns float32 [P, D], the images at some places; each id is embedded once."""
        first_place: dict[str, int] = {}
        for place in places:
            first_place.setdefault(examples.ids[place], place)
        row = {name: number for number, name in enumerate(first_place)}
        distinct = select_examples(examples, [*first_place.values()])
        vector_ND = data.embedder.embed_images(self.space, distinct)
        return vector_ND[[row[examples.ids[place]] for place in places]]

    def _embed_image_pairs(self, data: SplitData, pairs: list[RatedPair]) -> RatedEmbeddings:
        examples = data.read_examples(self.dataset, self.split, '', images=True)
        # Tables name files with or without their folders.
        place_of = {named_images.base_name(name): i for i, name in enumerate(examples.ids)}
        names = [[named_images.base_name(name) for name in pair.sides] for pair in pairs]
        missing = sorted({name for pair in names for name in pair if name not in place_of})
        if missing:
            raise UserError(
                f'{len(missing)} images that {self.ratings} rates are not in {self.where}, such '
                f'as {missing[0]}. Name the data set and the split whose ids are these files.'
            )
        places = [[place_of[name] for name in side] for side in zip(*names)]
        image_ND = self._embed_images(data, examples, places[0] + places[1])
        # Embedded together above, so that an image on both sides is embedded once.
        left_PD, right_PD = np.split(image_ND, 2)
        queries = number_keys([pair[0] for pair in names])
        return RatedEmbeddings(left_PD, right_PD, _rating_column(pairs), queries)

    def _embed_text_pairs(self, data: SplitData, pairs: list[RatedPair]) -> RatedEmbeddings:
        left, right = ([pair.sides[side] for pair in pairs] for side in (0, 1))
        left_PD, right_PD = (_embed_distinct(data, self.space, texts) for texts in (left, right))
        return RatedEmbeddings(left_PD, right_PD, _rating_column(pairs), number_keys(left))

    def protocol(self) -> dict[str, Any]:
        table = {'ratings': self.ratings, 'rating': self.score} if self.ratings else {}
        own = {
            'name': 'semantic similarity',
            'space': self.space,
            'compared': list(self.sides),
            'spearman': 'correlation, times 100, of the ranks of ratings and of cosines; ties '
            'have the mean of their ranks',
            'spearman_bootstrap': f'mean and standard deviation of {DRAWS} samples, each of half '
            f'of the queries (each {self.sides[0]}) and one pair of each '
            '(Parekh et al. 2021, arXiv:2004.15020)',
        }
        return self.base_protocol() | table | own


def read_ratings(path: str, columns: tuple[str, ...], score: str) -> list[RatedPair]:
    """Returns the rows of a table, in their order.

    Raises UserError if a row lacks a side or a rating, a rating is not a number, or a pair stands
    twice; a pair and its reverse are different pairs.
    """
    pairs = []
    for number, row in enumerate(tables.read_rows(path, (*columns, score)), 1):
        sides = tuple(str(row.get(column) or '') for column in columns)
        rating = _parse_number(row.get(score))
        if not all(sides) or not math.isfinite(rating):
            raise UserError(
                f'{path}, row {number}: {columns[0]}, {columns[1]} and a number as {score} are '
                f'needed, but it has {[*sides, row.get(score)]}. Remove the row.'
            )
        pairs.append(RatedPair(sides, rating))  # type: ignore[arg-type]
    counts = collections.Counter(pair.sides for pair in pairs)
    repeated = [sides for sides, count in counts.items() if count > 1]
    if repeated:
        raise _repeated_error(path, repeated)
    return pairs


def require_unique_pairs(
    ids: list[str], texts: Sequence[Sequence[str]], has_image: bool, where: str
) -> None:
    """Raises UserError if a data set holds its rated pairs twice, as after ingesting a file twice.

    Some images of COCO have two captions of the same words. So with images a repeated pair is an
    error only if every pair is repeated.
    """
    # Without images the id of an example identifies its pair.
    keys = list(zip(ids, *texts)) if has_image else ids
    counts = collections.Counter(keys)
    repeated = [key for key, count in counts.items() if count > 1]
    if len(repeated) == len(counts) if has_image else repeated:
        raise _repeated_error(where, repeated)


def select_examples(examples: SplitExamples, places: Sequence[int]) -> SplitExamples:
    """Returns some of the examples with their images, in the order of `places`."""

    def decode(start: int, stop: int) -> Any:
        # One by one, since the original decodes ranges alone and the places are scattered.
        rows = [examples.decode(place, place + 1) for place in places[start:stop]]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *rows)

    return SplitExamples(
        [examples.ids[i] for i in places],
        [examples.texts[i] for i in places],
        examples.label_N[places],
        examples.score_N[places],
        [examples.pngs[i] for i in places],
        decode,
    )


def _embed_distinct(data: SplitData, space: str, texts: Sequence[str]) -> np.ndarray:
    """Returns float32 [P, D]; equal texts are embedded once."""
    distinct = list(dict.fromkeys(texts))
    return data.embedder.embed_texts(space, distinct)[number_keys(texts)]


def _rating_column(pairs: Sequence[RatedPair]) -> np.ndarray:
    return np.array([pair.rating for pair in pairs])


def _parse_number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return math.nan


def _repeated_error(where: str, repeated: Sequence[Any]) -> UserError:
    return UserError(
        f'{where} rates {len(repeated)} pairs more than once, such as {repeated[0]}; they would '
        'count twice. Give each file once, and one rating for each pair.'
    )
