"""Scores while a run trains, and after it, from the command line."""

import json
from pathlib import Path

import pytest
from conftest import mural

from mural_jax.config.load import load_config
from mural_jax.evaluation import scores
from mural_jax.runs.run import Run
from mural_jax.types import UserError

SEEN = 'image_text_seen'
BEST = f'--config.schedule.best.metric=eval/{SEEN}/mean_translation_only/mean_recall'


@pytest.fixture(scope='module')
def scored(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps, scored after every fourth one."""
    folder = tmp_path_factory.mktemp('validation') / 'run'
    done = mural(
        'train', '--config=emoji:tiny', f'--workdir={folder}', f'--data_dir={data_dir}',
        f'--config.evaluators.{SEEN}.every=4', BEST, '--config.schedule.best.mode=max',
        '--config.schedule.keep=1', "--config.languages.image_text=('en',)",
        "--config.languages.translation_only=('be', 'uz')", devices=2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f'scored {SEEN}' in done.stderr
    return folder


def lines(workdir: Path) -> dict[int, float]:
    found = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    metric = BEST.partition('=')[2]
    return {line['step']: line[metric] for line in found if metric in line}


def test_each_evaluator_has_its_period(scored: Path) -> None:
    values = lines(scored)
    assert list(values) == [4, 8, 12]
    for step, value in values.items():
        found = scores.read(scored, step)
        assert list(found.results) == [SEEN]
        assert found.results[SEEN]['mean_translation_only']['mean_recall'] == value
        low, high = found.intervals[SEEN]['mean_translation_only']['mean_recall']
        assert low < value < high


def test_the_best_checkpoint_stays(scored: Path) -> None:
    values = lines(scored)
    best = max(values, key=lambda step: (values[step], step))
    kept = {int(path.name) for path in (scored / 'checkpoints').iterdir() if path.name.isdigit()}
    assert kept == {best, 12}


def test_it_finds_what_is_found_afterwards(scored: Path, data_dir: Path) -> None:
    where = (f'--workdir={scored}', f'--data_dir={data_dir}')
    before = scores.read(scored, 12)
    done = mural('evaluate', *where, '--only', SEEN)
    assert done.returncode == 0 and 'skipped' in done.stdout, done.stderr
    assert scores.read(scored, 12) == before
    done = mural('evaluate', *where)  # the others are added, and the index is made
    assert done.returncode == 0, done.stderr
    after = scores.read(scored, 12)
    assert set(after.results) == {SEEN, 'image_text_held_out', 'text_text_held_out'}
    assert after.results[SEEN] == before.results[SEEN]
    done = mural('evaluate', *where, '--only', SEEN, '--force', '--step=all')
    assert done.returncode == 0, done.stderr
    again = scores.read(scored, 12).results[SEEN]
    for language, row in before.results[SEEN].items():
        for metric, value in row.items():
            assert again[language][metric] == pytest.approx(value, abs=1.0), (language, metric)


def test_samples_stay_beside_the_scores(scored: Path) -> None:
    found = scores.read(scored, 12)
    size, languages = scores.read_samples(scored / 'eval' / '12.npz')[SEEN]
    assert size == found.protocol[SEEN]['items']
    row = {}
    for sample in languages['en']:
        row |= {name: value_N.mean() for name, value_N in sample.values.items()}
        assert sample.item_N.max() < size
    for metric, value in row.items():
        assert found.results[SEEN]['en'][metric] == pytest.approx(float(value), rel=1e-5)


@pytest.mark.parametrize(
    ('flags', 'said'),
    [
        ([BEST], 'not scored while the run trains'),
        ([BEST, f'--config.evaluators.{SEEN}.every=4'], "set best.mode='max'"),
        (
            [
                BEST.replace('seen', 'held_out'),
                '--config.evaluators.image_text_held_out.every=4',
                '--config.schedule.best.mode=max',
            ],
            "by the split 'test'",
        ),
        ([f'--config.evaluators.{SEEN}.every=-1'], 'every=-1 must be a number of steps'),
        ([f'--config.evaluators.{SEEN}.captions=second'], "must be 'first' or 'all'"),
    ],
)
def test_what_cannot_be_is_refused(flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Run.of(load_config('emoji:tiny', flags))


def test_unknown_names_are_refused(scored: Path, data_dir: Path) -> None:
    where = (f'--workdir={scored}', f'--data_dir={data_dir}')
    for words, said in (
        (['--only', 'image_text/sen'], "Did you mean 'image_text_seen'"),
        (['--step=last'], "must be a number, or 'all'"),
        (['--config.seed=1'], 'needs --config'),
    ):
        done = mural('evaluate', *where, *words)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_what_is_scored_may_change_in_the_middle(scored: Path, data_dir: Path) -> None:
    """It is no part of what is trained."""
    where = (f'--workdir={scored}', f'--data_dir={data_dir}')
    done = mural('train', '--config=emoji:tiny', *where, '--config.schedule.keep=1')
    assert done.returncode == 0 and 'the same in another way' in done.stderr + done.stdout
