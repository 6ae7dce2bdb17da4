"""The suites of configs/evaluation.py: whole, buildable, every field settable."""

import dataclasses

import pytest
from mural_jax.configs import evaluation
from mural_jax.configs.flickr8k import IMAGE_TEXT, TRANSLATION_ONLY

from mural_jax.config.load import load_config
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.runs.run import Run
from mural_jax.types import UserError


@pytest.mark.parametrize('suite', evaluation.SUITES)
def test_every_field_of_a_suite_can_be_set(suite: str) -> None:
    loaded = load_config(f'evaluation:{suite}', [])
    assert set(loaded) == {'evaluators', 'languages'}
    Run.of(load_config('emoji:tiny', []) | loaded)
    for node in loaded['evaluators'].values():
        fields = {field.name for field in dataclasses.fields(EVALUATORS[node['kind']])}
        assert set(node) == fields | {'kind'}


def test_suites_are_joined() -> None:
    joined = load_config(f'evaluation:{",".join(evaluation.SUITES)}', [])
    alone = [load_config(f'evaluation:{suite}', []) for suite in evaluation.SUITES]
    assert joined['evaluators'] == {k: v for one in alone for k, v in one['evaluators'].items()}
    for one in alone:
        for group, members in one['languages'].items():
            assert set(members) <= set(joined['languages'][group])
    # Photographs have no captions in the languages of the other suites.
    assert set(joined['evaluators']['flickr8k_all']['languages']) == {
        *IMAGE_TEXT,
        *TRANSLATION_ONLY,
    }
    with pytest.raises(UserError, match=r'evaluation:nothing is no suite'):
        load_config('evaluation:nothing', [])
