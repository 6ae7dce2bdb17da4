"""mural evaluate: the scores of a run, and which flags go together."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mural_jax.cli import evaluate, parser
from mural_jax.types import UserError

TRANSLATION_ONLY = 'be ga uz tg mt yo zu xh ha ig so qu sw cy am si ne km hy ka'


@pytest.fixture(scope='module')
def scores(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / 'eval' / '12.json').read_text(encoding='utf-8'))


def test_every_evaluator_of_the_config_scores(scores: dict[str, Any]) -> None:
    names = {'image_text_held_out', 'image_text_seen', 'text_text_held_out'}
    assert set(scores['results']) == names


def test_retrieval_has_the_metrics_of_the_readme(scores: dict[str, Any]) -> None:
    directions = ('image_to_text', 'text_to_image')
    assert set(scores['results']['image_text_held_out']['be']) == {
        *(f'{direction}_r{k}' for direction in directions for k in (1, 5, 10)),
        *(f'{direction}_{kind}_rank' for direction in directions for kind in ('mean', 'median')),
        'mean_recall',
        'rsum',
    }


def test_languages_and_group_means_are_scored(scores: dict[str, Any]) -> None:
    held_out = scores['results']['image_text_held_out']
    assert len(held_out) == 12 + 20 + 2  # languages of two groups, and the mean of each group
    means = [held_out[language]['mean_recall'] for language in TRANSLATION_ONLY.split()]
    assert held_out['mean_translation_only']['mean_recall'] == pytest.approx(np.mean(means))


def test_bitext_retrieval_does_not_score_english(scores: dict[str, Any]) -> None:
    assert 'en' not in scores['results']['text_text_held_out']


def test_protocol_stands_beside_the_scores(scores: dict[str, Any]) -> None:
    assert scores['protocol']['image_text_held_out']['captions_per_image'] == 1


@pytest.mark.parametrize(
    ('words', 'subject'),
    [
        ('--workdir=run --step=all --only image_text_held_out', 'workdir'),
        ('--model=open_clip:a:b --config=evaluation:xm3600 --out=out', 'model'),
        ('--images=a.npy --texts=b.npy --language=uz --out=out', 'images'),
    ],
)
def test_subject_is_chosen_by_its_flag(words: str, subject: str) -> None:
    assert evaluate.choose_subject(parser.parse(['evaluate', *words.split()])) == subject


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('', 'What is scored.*none is given'),
        ('--workdir=run --model=open_clip:a:b', 'What is scored.*--workdir and --model are given'),
        ('--model=open_clip:a:b', '--model needs --config and --out'),
        ('--images=a.npy --out=out', '--images needs --texts'),
        ('--workdir=run --language=uz', '--language do not go with --workdir'),
        ('--images=a.npy --texts=b.npy --out=out --only x', '--only do not go with --images'),
    ],
)
def test_flags_that_do_not_go_together_are_refused(words: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        evaluate.choose_subject(parser.parse(['evaluate', *words.split()]))


def test_all_steps_are_listed_in_order(tmp_path: Path) -> None:
    for step in (12, 4):
        (tmp_path / 'checkpoints' / str(step)).mkdir(parents=True)
    assert evaluate.choose_steps(tmp_path, 'all') == [4, 12]


def test_newest_step_is_the_default(tmp_path: Path) -> None:
    assert evaluate.choose_steps(tmp_path, None) == [None]


@pytest.mark.parametrize(('word', 'message'), [('all', 'no checkpoint yet'), ('x', "or 'all'")])
def test_wrong_step_is_refused(word: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        evaluate.choose_steps(tmp_path, word)


def test_override_without_config_is_refused(capsys: pytest.CaptureFixture) -> None:
    assert parser.main(['evaluate', '--workdir=run', '--config.languages=x']) == 2
    assert 'needs --config' in capsys.readouterr().err
