"""Curves of training and of evaluators."""

import pytest

from mural_jax.evaluation.report.figures import CurvePanel, draw_curves


@pytest.fixture(scope='module')
def panels() -> list[CurvePanel]:
    """Curves of two runs whose lines have different metrics."""
    first = [{'step': 1, 'a/loss': 2.0}, {'step': 2, 'eval/x/f1': float('nan')}]
    return draw_curves([first, [{'step': 1, 'b/accuracy': 1.0}]])


def test_lines_may_lack_any_metric(panels: list[CurvePanel]) -> None:
    assert [panel.title for panel in panels] == ['loss, a', 'in-batch accuracy, b', 'f1, x']


def test_svg_takes_text_colour_of_page(panels: list[CurvePanel]) -> None:
    assert all('currentColor' in panel.svg and '#010101' not in panel.svg for panel in panels)


def test_no_lines_give_no_curves() -> None:
    assert draw_curves([[]]) == []


def test_only_headline_metric_of_evaluator_is_drawn() -> None:
    lines = [{'step': 1, 'eval/x/mean_a/rsum': 2.0, 'eval/x/mean_a/mean_recall': 1.0}]
    panels = draw_curves([lines], {'x': 'mean_recall'})
    assert [panel.title for panel in panels] == ['mean recall, x/mean_a']
