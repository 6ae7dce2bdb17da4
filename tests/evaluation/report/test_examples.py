"""Queries that a model fails worst."""

import pytest
from evaluation.galleries import RandomIndex, TargetEmbedder

from mural_jax.evaluation.report import examples
from mural_jax.evaluation.report.examples import EmbeddedNames, QueryExample

LANGUAGES = ('en', 'de')


@pytest.fixture(scope='module')
def index() -> RandomIndex:
    return RandomIndex(LANGUAGES, 40)


@pytest.fixture(scope='module')
def names(index: RandomIndex) -> EmbeddedNames:
    return examples.embed_names(index, TargetEmbedder(index, noise=1.0), LANGUAGES)


@pytest.fixture(scope='module')
def failures(index: RandomIndex, names: EmbeddedNames) -> list[QueryExample]:
    return examples.worst_failures(index, names, {'all': LANGUAGES})['all']


def test_names_of_all_held_out_images_are_embedded(
    index: RandomIndex, names: EmbeddedNames
) -> None:
    assert len(examples.held_out_images(index.splits)) == len(names.places) == 30


def test_first_failure_has_worst_rank(
    index: RandomIndex, names: EmbeddedNames, failures: list[QueryExample]
) -> None:
    image_MD = index.image_ND[examples.held_out_images(index.splits)]
    ranks = [
        int((image_MD @ v_D > index.image_ND[place] @ v_D + 1e-5).sum()) + 1
        for v_ND in names.vector_LND
        for place, v_D in zip(names.places, v_ND)
    ]
    assert failures[0].rank == max(ranks)
    assert failures[0].rank >= failures[1].rank > 1


def test_each_language_fails_once(failures: list[QueryExample]) -> None:
    assert len({one.language for one in failures}) == len(failures) == 2


def test_target_is_not_among_results_if_its_rank_is_behind_them(
    failures: list[QueryExample],
) -> None:
    behind = [one for one in failures if one.rank > len(one.results)]
    assert not any(image.right for one in behind for image in one.results)
