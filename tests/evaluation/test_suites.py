"""The suites of configs/evaluation.py: complete, buildable, every field settable."""

import dataclasses

import pytest
from mural_jax.configs import evaluation
from mural_jax.configs.flickr8k import IMAGE_TEXT, TRANSLATION_ONLY

from mural_jax.config import build
from mural_jax.config.load import load_config
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.runs.run import Run
from mural_jax.types import UserError


@pytest.mark.parametrize('suite', evaluation.SUITES)
def test_suite_has_every_field_of_its_evaluators(suite: str) -> None:
    config = load_config(f'evaluation:{suite}', [])
    assert set(config) == {'evaluators', 'languages'}
    Run.of(load_config('emoji:tiny', []) | config)
    for node in config['evaluators'].values():
        fields = {field.name for field in dataclasses.fields(EVALUATORS[node['kind']])}
        assert set(node) == fields | {'kind'}


@pytest.mark.parametrize('kind', EVALUATORS)
def test_every_kind_declares_its_headline_metric(kind: str) -> None:
    assert EVALUATORS[kind].headline


def test_joined_suites_keep_all_evaluators_and_groups() -> None:
    joined = load_config(f'evaluation:{",".join(evaluation.SUITES)}', [])
    alone = [load_config(f'evaluation:{suite}', []) for suite in evaluation.SUITES]
    assert joined['evaluators'] == {k: v for one in alone for k, v in one['evaluators'].items()}
    for one in alone:
        for group, members in one['languages'].items():
            assert set(members) <= set(joined['languages'][group])


def test_joined_suites_keep_languages_of_each_evaluator() -> None:
    """Photographs have no captions in the languages of the other suites."""
    joined = load_config(f'evaluation:{",".join(evaluation.SUITES)}', [])
    languages = set(joined['evaluators']['flickr8k_all']['languages'])
    assert languages == {*IMAGE_TEXT, *TRANSLATION_ONLY}


def test_unknown_suite_is_refused() -> None:
    with pytest.raises(UserError, match=r'evaluation:nothing is no suite.*flores, tatoeba'):
        load_config('evaluation:nothing', [])


@pytest.mark.parametrize('suite', ['flores', 'tatoeba'])
def test_bitext_suite_takes_another_space_and_score(suite: str) -> None:
    flags = [f'--config.evaluators.{suite}.{x}' for x in ('space=image_text', 'score=ratio')]
    config = load_config(f'evaluation:{suite}', flags)
    (node,) = config['evaluators'].values()
    evaluator = build.build(EVALUATORS, node, 'evaluators')
    assert evaluator.languages == ('*',) and evaluator.needs() == {'spaces': 'image_text'}
    assert evaluator.score == 'ratio'
    members = {language for group in config['languages'].values() for language in group}
    assert not members & set(evaluator.pivots)
