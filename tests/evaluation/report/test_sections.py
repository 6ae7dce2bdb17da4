"""Sections of the report: groups of languages and of evaluators."""

from evaluation.galleries import make_run
from evaluation.report.pages import EIGHT

from mural_jax.evaluation.report.sections import UNGROUPED, build_sections, split_by_group


def test_section_has_groups_that_its_evaluator_was_scored_in() -> None:
    """The groups of a suite, whatever the run's own groups are called."""
    run = make_run('only', EIGHT)
    own = {'left': ['ar', 'he'], 'few': ['hi'], 'all': ['ar', 'he', 'hi', 'en']}
    run.measured.scores.groups['image_text/set0'] = own
    (section, *_) = build_sections([run.measured], EIGHT)
    assert {group: {row.name for row in rows} for group, rows in section.groups.items()} == {
        'left': {'ar', 'he'},
        'few': {'hi'},
        UNGROUPED: {'en', 'zh', 'ru', 'th', 'am'},
    }
    assert {row.name: row.members for row in section.means}['few'] == 1


def test_section_shows_headline_of_its_protocol() -> None:
    run = make_run('only', EIGHT)
    sections = build_sections([run.measured], EIGHT)
    assert [section.metric for section in sections] == ['mean_recall', 'match_auc']


def test_language_stands_in_its_first_group_only() -> None:
    split = split_by_group(['b', 'a', 'z'], {'one': ('a', 'b'), 'two': ('a',)})
    assert split == {'one': ['b', 'a'], UNGROUPED: ['z']}
