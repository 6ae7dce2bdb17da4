"""The report as a file: what is on the page, what is escaped, what is missing."""

import re
import shutil
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from conftest import mural
from evaluation.galleries import Embedder, Index, run

from mural_jax.evaluation.report import (
    blocks,
    examples,
    figures,
    language_map,
    scripts,
)
from mural_jax.evaluation.report import (
    page as report,
)
from mural_jax.evaluation.report.page import Looked, Reported
from mural_jax.types import UserError

EIGHT = {'few': ('ar', 'he', 'hi'), 'many': ('en', 'zh', 'ru', 'th', 'am')}
VOID = {'meta', 'link', 'img', 'br', 'path', 'use'}
OPTIONAL = {'tr', 'td', 'th', 'p', 'tbody'}  # HTML closes them by itself


class Checked(HTMLParser):
    """Counts tags, and says which were closed in the wrong order."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.count: dict[str, int] = {}
        self.wrong: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID | OPTIONAL:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID | OPTIONAL and (not self.open or self.open.pop() != tag):
            self.wrong.append(tag)


def looked(groups: dict[str, Sequence[str]], maps: int = 1) -> Looked:
    languages = [x for group in groups.values() for x in group]
    index = Index(languages)
    embedder = Embedder(index)
    named = examples.embed_names(index, embedder, languages)
    found = language_map.place(named.vector_LND, named.languages)
    return Looked(
        0, examples.grid(index, embedder, groups), examples.failures(index, named, groups),
        [found] * maps,
    )  # fmt: skip


def page_of(*runs: Reported, groups: dict[str, Sequence[str]] = EIGHT) -> str:
    page = report.render(runs, looked(groups, len(runs)))
    checked = Checked(page)
    assert not checked.wrong and not checked.open
    assert 'script' not in checked.count
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    return page


def test_a_page_of_two_runs_has_all_parts() -> None:
    page = page_of(run('first', EIGHT, 0.3), run('second', EIGHT, 0.6))
    for part in ('measured', 'training', 'scores', 'differences', 'queries', 'failures',
                 'languages', 'protocol'):  # fmt: skip
        assert f'id="{part}"' in page and f'href="#{part}"' in page
    for words in ('one caption', 'image to text, text to image', 'captions/made_up:test',
                  '2026-01-02 03:04 UTC', 'few (mean of 3)', 'match auc', 'Holm',
                  'Not compared: a run has no scores of it query by query',
                  'Of 8 languages 8 are better and 0 worse'):  # fmt: skip
        assert words in page
    assert page.count('<figure>') == 4 + 2
    assert 'mean_few' not in page.replace('image_text/set0/mean_few', '')


def test_an_evaluator_stands_in_the_groups_that_it_was_scored_in() -> None:
    """Those of a suite, whatever the run's own are called."""
    one = run('only', EIGHT)
    own = {'left': ['ar', 'he'], 'few': ['hi'], 'all': ['ar', 'he', 'hi', 'en']}
    one.measured.found.groups['image_text/set0'] = own
    (block, *_) = blocks.blocks([one.measured], EIGHT)
    assert {group: {row.name for row in rows} for group, rows in block.groups.items()} == {
        'left': {'ar', 'he'}, 'few': {'hi'}, blocks.NOWHERE: {'en', 'zh', 'ru', 'th', 'am'},
    }  # fmt: skip
    assert {row.name: row.members for row in block.means}['few'] == 1


def test_a_page_of_one_run_compares_nothing() -> None:
    page = page_of(run('only', EIGHT))
    assert 'id="differences"' not in page and 'Holm' not in page
    assert page.count('class="row"') >= 8


def test_protocols_that_differ_are_said_to() -> None:
    first, second = run('first', EIGHT), run('second', EIGHT)
    second.measured.found.protocol['image_text/set0']['dataset'] = 'captions/other'
    page = page_of(first, second)
    assert 'data set is' not in page
    assert 'Not compared: the protocols differ: dataset is “captions/made_up” and' in page


def test_hostile_names_are_text() -> None:
    evil = '<script>alert(1)</script>"\'$\\frac{'
    groups = {evil: ('en', '"><hr>', '$x$')}
    made = run(f'a/{evil.replace("/", "")}', groups)
    found = made.measured.found
    found.results[evil], found.protocol[evil] = found.results['hidden'], {'name': evil}
    found.results['hidden']['all'][evil] = 1.0
    page = page_of(made, groups=groups)
    assert '<script' not in page and '"><hr>' not in page and '&lt;script&gt;' in page


def test_pages_take_any_number_of_languages() -> None:
    many = [f'l{i:03d}_Latn' for i in range(204)]
    page = page_of(
        run('one', {'all': many}, 0.3, 3), run('two', {'all': many}, 0.4, 3), groups={'all': many}
    )
    assert len(page.encode()) < 5e6
    assert page.count('l203_Latn') >= 2 * 3


def test_a_run_without_metrics_of_training() -> None:
    page = page_of(run('bare', EIGHT)._replace(lines=[]))
    assert 'There are no metrics of training' in page


def test_runs_with_other_evaluators_and_languages() -> None:
    """What only one has is shown, with the other's place empty."""
    other = run('other', {'few': ('ar', 'sw')}, evaluators=2)
    page = page_of(run('one', EIGHT), other)
    assert 'only one of the runs was scored by it' in page and 'sw' in page


def test_a_line_may_lack_any_metric() -> None:
    panels = figures.curves([[{'step': 1, 'a/loss': 2.0}, {'step': 2, 'eval/x/f1': float('nan')}],
                             [{'step': 1, 'b/accuracy': 1.0}]])  # fmt: skip
    assert [panel.title for panel in panels] == ['loss, a', 'in-batch accuracy, b', 'f1, x']
    assert all('currentColor' in panel.svg and '#010101' not in panel.svg for panel in panels)
    assert figures.curves([[]]) == []


def test_names_of_runs_tell_them_apart() -> None:
    assert report.labels([Path('/x/a'), Path('/x/b')]) == ['a', 'b']
    assert report.labels([Path('/x/a'), Path('/y/a')]) == ['x/a', 'y/a']
    with pytest.raises(UserError, match='named twice'):
        report.labels([Path('/x/a'), Path('/x/../x/a')])


def test_languages_stand_in_one_group() -> None:
    split = blocks.split_up(['b', 'a', 'z'], {'one': ('a', 'b'), 'two': ('a',)})
    assert split == {'one': ['b', 'a'], blocks.NOWHERE: ['z']}


@pytest.mark.parametrize(
    ('text', 'language', 'direction', 'font'),
    [
        ('cat', 'en', 'ltr', 'Noto Sans'),
        ('قطة WiFi سوداء', 'ar', 'rtl', 'Noto Sans Arabic'),
        ('חתול', 'heb_Hebr', 'rtl', 'Noto Sans Hebrew'),
        ('बिल्ली', 'hi', 'ltr', 'Noto Sans Devanagari'),
        ('猫', 'ja', 'ltr', 'Noto Sans JP'),
        ('猫', 'zh_Hant', 'ltr', 'Noto Sans TC'),
        ('猫', 'zh', 'ltr', 'Noto Sans SC'),
        ('ネコ', 'ja', 'ltr', 'Noto Sans JP'),
        ('42 !', 'en', 'ltr', 'Noto Sans'),
    ],
)
def test_scripts(text: str, language: str, direction: str, font: str) -> None:
    assert scripts.direction(text) == direction
    assert scripts.fonts(text, language).startswith(f'"{font}", ')


def test_failures_are_the_worst() -> None:
    index = Index(['en', 'de'], 40)
    embedder = Embedder(index, noise=1.0)
    named = examples.embed_names(index, embedder, ['en', 'de'])
    found = examples.failures(index, named, {'all': ('en', 'de')})['all']
    gallery = examples.held_out(index.splits)
    assert len(gallery) == 30 and len(named.items) == 30
    image_MD = index.image_ND[gallery]
    ranks = {
        (language, item): int((image_MD @ v_D > index.image_ND[item] @ v_D + 1e-5).sum()) + 1
        for language, v_ND in zip(named.languages, named.vector_LND)
        for item, v_D in zip(named.items, v_ND)
    }
    assert found[0].rank == max(ranks.values())
    assert len({one.language for one in found}) == len(found) == 2
    assert found[0].rank >= found[1].rank > 1
    assert not any(hit.right for one in found for hit in one.found if one.rank > len(one.found))


def test_languages_that_are_alike_lie_together() -> None:
    """Two families: the same texts, each family shifted by its own vector."""
    rng = np.random.default_rng(0)
    text_ND = rng.normal(size=(1, 20, 16))
    family_LD = np.repeat(rng.normal(size=(2, 16)), 3, axis=0)
    vector_LND = text_ND + family_LD[:, None] + 0.01 * rng.normal(size=(6, 20, 16))
    vector_LND[0, 3] = np.nan
    found = language_map.place(vector_LND, list('abcdef'))
    assert found is not None and found.items == 19 and found.languages == list('abcdef')
    x_L = found.xy_L2[:, 0]
    assert np.ptp(x_L[:3]) < 0.1 * abs(x_L[:3].mean() - x_L[3:].mean())
    assert found.share_2[0] > 0.99
    assert language_map.place(vector_LND[:, :5], list('abcdef')) is None
    assert language_map.place(vector_LND * np.nan, list('abcdef')) is None


def test_components_are_those_of_the_covariance() -> None:
    rng = np.random.default_rng(1)
    point_LD = rng.normal(size=(30, 5)) * [5, 3, 1, 1, 1]
    xy_L2, share_2 = language_map.principal(point_LD)
    values, vectors = np.linalg.eigh(np.cov(point_LD.T))
    wanted = (point_LD - point_LD.mean(0)) @ vectors[:, ::-1][:, :2]
    np.testing.assert_allclose(np.abs(xy_L2), np.abs(wanted), atol=1e-8)
    np.testing.assert_allclose(share_2, values[::-1][:2] / values.sum())


def test_what_is_missing_is_named(workdir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    (copy / 'eval/12.json').unlink()
    done = mural('report', f'--workdirs={workdir},{copy}', f'--out={tmp_path}/page.html')
    assert done.returncode == 2
    assert 'There are no scores' in done.stderr and 'mural evaluate' in done.stderr
    assert not (tmp_path / 'page.html').exists()


def test_embeddings_stand_beside_a_run_without_an_index(workdir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    (copy / 'index/12.npz').unlink()
    arrays = [tmp_path / f'{side}.npy' for side in ('images', 'texts')]
    for path in arrays:
        np.save(path, np.eye(12, dtype=np.float32))
    files = f'--images={arrays[0]}', f'--texts={arrays[1]}'
    done = mural('evaluate', *files, '--language=sw', f'--out={tmp_path}/others')
    assert done.returncode == 0, done.stderr
    out = tmp_path / 'page.html'
    done = mural('report', '--workdirs', copy, tmp_path / 'others', f'--out={out}')
    assert done.returncode == 0, done.stderr
    page = out.read_text(encoding='utf-8')
    assert 'nothing here has a search index' in page and 'There is no map' in page
    assert 'embeddings from files' in page and 'image_text_held_out' in page


def test_two_runs_by_the_command_line(workdir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'a,copy')
    (copy / 'metrics.jsonl').unlink()
    out = tmp_path / 'page.html'
    done = mural('report', '--workdirs', workdir, copy, f'--out={out}', '--step=12')
    assert done.returncode == 0, done.stderr
    page = out.read_text(encoding='utf-8')
    assert 'Of 32 languages 0 are better and 0 worse' in page
    assert 'image_text_held_out' in page and 'a,copy' in page
