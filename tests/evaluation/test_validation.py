"""Scores during training, and after it from the command line."""

import json
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import mural

from mural_jax.config.load import load_config
from mural_jax.evaluation import scores
from mural_jax.evaluation.scores import CheckpointScores
from mural_jax.runs.run import Run
from mural_jax.types import UserError

SEEN = 'image_text_seen'
METRIC = f'eval/{SEEN}/mean_translation_only/mean_recall'
BEST = f'--config.schedule.best.metric={METRIC}'


@pytest.fixture(scope='module')
def trained(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run of 12 steps with scores after every fourth one."""
    folder = tmp_path_factory.mktemp('validation') / 'run'
    done = mural(
        'train',
        '--config=emoji:tiny',
        f'--workdir={folder}',
        f'--data_dir={data_dir}',
        f'--config.evaluators.{SEEN}.every=4',
        BEST,
        '--config.schedule.best.mode=max',
        '--config.schedule.keep=1',
        "--config.languages.image_text=('en',)",
        "--config.languages.translation_only=('be', 'uz')",
        devices=2,
    )
    assert done.returncode == 0, done.stderr
    assert f'scored {SEEN}' in done.stderr
    return folder


def read_metric(workdir: Path) -> dict[int, float]:
    """{step: the metric that chooses checkpoints}."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return {line['step']: line[METRIC] for line in lines if METRIC in line}


def test_evaluator_runs_after_each_period(trained: Path) -> None:
    values = read_metric(trained)
    assert list(values) == [4, 8, 12]
    for step, value in values.items():
        found = scores.read(trained, step)
        assert list(found.results) == [SEEN]
        assert found.results[SEEN]['mean_translation_only']['mean_recall'] == value
        low, high = found.intervals[SEEN]['mean_translation_only']['mean_recall']
        assert low < value < high


def test_best_and_newest_checkpoint_stay(trained: Path) -> None:
    values = read_metric(trained)
    best = max(values, key=lambda step: (values[step], step))
    steps = {int(path.name) for path in (trained / 'checkpoints').iterdir() if path.name.isdigit()}
    assert steps == {best, 12}


def test_samples_beside_scores_have_their_means(trained: Path) -> None:
    found = scores.read(trained, 12)
    size, languages = scores.read_samples(trained / 'eval' / '12.npz')[SEEN]
    assert size == found.protocol[SEEN]['items']
    row = {}
    for sample in languages['en']:
        row |= {name: value_N.mean() for name, value_N in sample.values.items()}
        assert sample.item_N.max() < size
    for metric, value in row.items():
        assert found.results[SEEN]['en'][metric] == pytest.approx(float(value), rel=1e-5)


class Evaluated(NamedTuple):
    """The scores of step 12 after each command, and what the first command printed."""

    trained: CheckpointScores
    skipped: CheckpointScores
    whole: CheckpointScores
    forced: CheckpointScores
    output: str


@pytest.fixture(scope='module')
def evaluated(trained: Path, data_dir: Path) -> Evaluated:
    """`mural evaluate` with the evaluator of training, with all of them, and with --force."""
    where = (f'--workdir={trained}', f'--data_dir={data_dir}')
    found, outputs = [scores.read(trained, 12)], []
    for words in (['--only', SEEN], [], ['--only', SEEN, '--force', '--step=all']):
        done = mural('evaluate', *where, *words)
        assert done.returncode == 0, done.stderr
        found.append(scores.read(trained, 12))
        outputs.append(done.stdout)
    return Evaluated(*found, outputs[0])


def test_scores_of_training_are_not_computed_again(evaluated: Evaluated) -> None:
    assert 'skipped' in evaluated.output
    assert evaluated.skipped == evaluated.trained


def test_other_evaluators_are_added(evaluated: Evaluated) -> None:
    assert set(evaluated.whole.results) == {SEEN, 'image_text_held_out', 'text_text_held_out'}
    assert evaluated.whole.results[SEEN] == evaluated.trained.results[SEEN]


def test_evaluation_after_training_finds_the_same(evaluated: Evaluated) -> None:
    again = evaluated.forced.results[SEEN]
    for language, row in evaluated.trained.results[SEEN].items():
        for metric, value in row.items():
            assert again[language][metric] == pytest.approx(value, abs=1.0), (language, metric)


@pytest.mark.parametrize(
    ('flags', 'message'),
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
def test_wrong_config_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Run.of(load_config('emoji:tiny', flags))


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--only', 'image_text/sen'], "Did you mean 'image_text_seen'"),
        (['--step=last'], "must be a number, or 'all'"),
        (['--config.seed=1'], 'needs --config'),
    ],
)
def test_wrong_flag_is_refused(
    words: list[str], message: str, trained: Path, data_dir: Path
) -> None:
    done = mural('evaluate', f'--workdir={trained}', f'--data_dir={data_dir}', *words)
    assert done.returncode == 2 and message in done.stderr, done.stderr


def test_evaluators_may_change_when_training_goes_on(trained: Path, data_dir: Path) -> None:
    where = (f'--workdir={trained}', f'--data_dir={data_dir}')
    done = mural('train', '--config=emoji:tiny', *where, '--config.schedule.keep=1')
    assert done.returncode == 0 and 'in another way' in done.stderr + done.stdout
