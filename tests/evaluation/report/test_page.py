"""The page of the report: its parts, what is escaped, what is missing."""

from pathlib import Path

import pytest
from evaluation.galleries import make_run
from evaluation.report.pages import EIGHT, render_checked

from mural_jax.evaluation.report.page import label_runs
from mural_jax.types import UserError


@pytest.fixture(scope='module')
def page_of_two() -> str:
    return render_checked(make_run('first', EIGHT, 0.3), make_run('second', EIGHT, 0.6))


PARTS = (
    'measured',
    'training',
    'scores',
    'differences',
    'queries',
    'failures',
    'languages',
    'protocol',
)


@pytest.mark.parametrize('part', PARTS)
def test_part_stands_on_page_and_in_navigation(part: str, page_of_two: str) -> None:
    assert f'id="{part}"' in page_of_two and f'href="#{part}"' in page_of_two


@pytest.mark.parametrize(
    'words',
    [
        'one caption',
        'image to text, text to image',
        'captions/made_up:test',
        '2026-01-02 03:04 UTC',
        'few (mean of 3)',
        'match auc',
        'Holm',
        'Not compared: a run has no scores of it query by query',
        'Of 8 languages 8 are better and 0 worse',
    ],
)
def test_page_of_two_runs_says(words: str, page_of_two: str) -> None:
    assert words in page_of_two


def test_page_of_two_runs_has_all_figures(page_of_two: str) -> None:
    curves, maps = 4, 2
    assert page_of_two.count('<figure>') == curves + maps


def test_groups_stand_without_their_prefix(page_of_two: str) -> None:
    assert 'mean_few' not in page_of_two.replace('image_text/set0/mean_few', '')


def test_page_of_one_run_compares_nothing() -> None:
    page = render_checked(make_run('only', EIGHT))
    assert 'id="differences"' not in page and 'Holm' not in page
    assert page.count('class="row"') >= 8


def test_page_says_how_protocols_differ() -> None:
    first, second = make_run('first', EIGHT), make_run('second', EIGHT)
    second.measured.scores.protocol['image_text/set0']['dataset'] = 'captions/other'
    page = render_checked(first, second)
    assert 'data set is' not in page
    assert 'Not compared: the protocols differ: dataset is “captions/made_up” and' in page


def test_hostile_names_are_escaped() -> None:
    evil = '<script>alert(1)</script>"\'$\\frac{'
    groups = {evil: ('en', '"><hr>', '$x$')}
    run = make_run(f'a/{evil.replace("/", "")}', groups)
    scores = run.measured.scores
    scores.results[evil], scores.protocol[evil] = scores.results['hidden'], {'name': evil}
    scores.results['hidden']['all'][evil] = 1.0
    page = render_checked(run, groups=groups)
    assert '<script' not in page and '"><hr>' not in page and '&lt;script&gt;' in page


def test_page_of_204_languages_stays_small() -> None:
    many = [f'l{i:03d}_Latn' for i in range(204)]
    one, two = make_run('one', {'all': many}, 0.3, 3), make_run('two', {'all': many}, 0.4, 3)
    page = render_checked(one, two, groups={'all': many})
    assert len(page.encode()) < 5e6
    assert page.count('l203_Latn') >= 2 * 3


def test_missing_training_metrics_are_said() -> None:
    page = render_checked(make_run('bare', EIGHT)._replace(lines=[]))
    assert 'There are no metrics of training' in page


def test_evaluators_and_languages_of_one_run_are_shown() -> None:
    other = make_run('other', {'few': ('ar', 'sw')}, evaluators=2)
    page = render_checked(make_run('one', EIGHT), other)
    assert 'only one of the runs was scored by it' in page and 'sw' in page


def test_run_labels_tell_runs_apart() -> None:
    assert label_runs([Path('/x/a'), Path('/x/b')]) == ['a', 'b']
    assert label_runs([Path('/x/a'), Path('/y/a')]) == ['x/a', 'y/a']


def test_run_named_twice_is_refused() -> None:
    with pytest.raises(UserError, match='named twice'):
        label_runs([Path('/x/a'), Path('/x/../x/a')])
