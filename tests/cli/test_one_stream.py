"""Models with one stream from the command line: trained, distilled, re-ranked, or refused."""

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import mural

from mural_jax.workdir import metrics


class TrainedRun(NamedTuple):
    """A run that was trained and evaluated, and what the two commands printed."""

    workdir: Path
    train: subprocess.CompletedProcess
    evaluate: subprocess.CompletedProcess


def train_and_evaluate(workdir: Path, data_dir: Path, *words: str) -> TrainedRun:
    where = [f'--workdir={workdir}', f'--data_dir={data_dir}']
    trained = mural('train', *words, *where)
    assert trained.returncode == 0, trained.stderr
    evaluated = mural('evaluate', *where)
    assert evaluated.returncode == 0, evaluated.stderr
    return TrainedRun(workdir, trained, evaluated)


def read_scores(workdir: Path) -> dict:
    return json.loads((workdir / 'eval' / '12.json').read_text())


@pytest.fixture(scope='module')
def pretrained(scenes_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    workdir = tmp_path_factory.mktemp('one_stream') / 'pretrained'
    return train_and_evaluate(workdir, scenes_dir, '--config=unicoder_vl:tiny')


@pytest.fixture(scope='module')
def distilled(pretrained: TrainedRun, scenes_dir: Path) -> TrainedRun:
    """A decomposed model that learned from `pretrained`."""
    return train_and_evaluate(
        pretrained.workdir.with_name('distilled'),
        scenes_dir,
        '--config=vldeformer:tiny,distilled',
        f'--config.init_from.model={pretrained.workdir}',
    )


@pytest.fixture(scope='module')
def reranking(pretrained: TrainedRun, distilled: TrainedRun, scenes_dir: Path) -> TrainedRun:
    """A fine-tuned model that ranks the ten best images of `distilled` again."""
    return train_and_evaluate(
        pretrained.workdir.with_name('reranking'),
        scenes_dir,
        '--config=unicoder_vl:tiny,retrieval',
        f'--config.init_from.model={pretrained.workdir}',
        '--config.evaluators.cross_encoder.rerank.k=10',
        f'--config.evaluators.cross_encoder.rerank.workdir={distilled.workdir}',
    )


def test_tasks_are_listed_with_batch_and_weight(pretrained: TrainedRun) -> None:
    assert 'words: global batch 16, weight 1' in pretrained.train.stderr


def test_matching_is_scored_in_all_languages(pretrained: TrainedRun) -> None:
    assert 'match_auc' in pretrained.evaluate.stdout
    assert read_scores(pretrained.workdir)['protocol']['hidden']['items'] == 20


def test_cross_encoder_scores_every_pair(pretrained: TrainedRun) -> None:
    row = read_scores(pretrained.workdir)['results']['cross_encoder']['en']
    assert row['passes'] == 20 * 20 and 0 <= row['mean_recall'] <= 100


def test_distillation_starts_from_the_trained_model(distilled: TrainedRun) -> None:
    assert 'init_from.model: ' in distilled.train.stdout
    assert '15 negatives' in distilled.train.stderr


def test_distillation_starts_at_the_temperature_of_the_config(distilled: TrainedRun) -> None:
    temperature = metrics.read(distilled.workdir)[-1]['image_text/temperature']
    assert abs(temperature - 0.005) < 1e-6


def test_reranking_passes_fewer_pairs(reranking: TrainedRun) -> None:
    passes = read_scores(reranking.workdir)['results']['cross_encoder']['en']['passes']
    assert 240 <= passes <= 440


def test_plan_of_a_run_without_contrast_has_no_negatives() -> None:
    done = mural('plan', '--config=unicoder_vl:tiny', '--topology=cpu:2')
    assert done.returncode == 0, done.stderr
    assert 'negatives' not in done.stdout


@pytest.fixture(scope='module')
def decomposed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    """Translation pairs and pairs of text and image patches, through the same weights."""
    workdir = tmp_path_factory.mktemp('decomposed') / 'run'
    return train_and_evaluate(workdir, data_dir, '--config=emoji:decomposed,tiny')


def test_translations_have_negatives(decomposed: TrainedRun) -> None:
    assert 'text_text: global batch 16, 15 negatives' in decomposed.train.stderr


def test_model_of_patches_is_searched(decomposed: TrainedRun, tmp_path: Path) -> None:
    out = tmp_path / 'found.png'
    done = mural(
        'search', '--query=dog', '--k=3', f'--workdir={decomposed.workdir}', f'--out={out}'
    )
    assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 100


@pytest.mark.parametrize('verb', ['train', 'doctor'])
def test_too_few_classes_are_refused(verb: str, scenes_dir: Path, tmp_path: Path) -> None:
    done = mural(
        *(verb, '--config=unicoder_vl:tiny', '--config.model.num_classes=3'),
        *(f'--workdir={tmp_path / "run"}', f'--data_dir={scenes_dir}'),
    )
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert re.search(r'classes up to\s+\d+', said) and 'config.model.num_classes=3' in said
    assert not (tmp_path / 'run').exists()


def test_unknown_prediction_is_answered_with_known_ones() -> None:
    done = mural('params', '--config=unicoder_vl:tiny', '--config.tasks.words.predict=letters')
    assert done.returncode == 2
    assert "predict='letters'" in done.stderr and 'regions' in done.stderr
