"""One stream from the command line: trained, evaluated, refused where it cannot be."""

import json
import re
from pathlib import Path

from conftest import mural

from mural_jax.workdir import metrics


def test_it_is_pretrained_decomposed_and_evaluated(scenes_dir: Path, tmp_path: Path) -> None:
    where = [f'--workdir={tmp_path / "run"}', f'--data_dir={scenes_dir}']
    done = mural('train', '--config=unicoder_vl:tiny', *where)
    assert done.returncode == 0, done.stderr
    assert 'words: global batch 16, weight 1' in done.stderr
    done = mural('evaluate', *where)
    assert done.returncode == 0, done.stderr
    assert 'match_auc' in done.stdout
    scores = json.loads((tmp_path / 'run' / 'eval' / '12.json').read_text())
    assert scores['protocol']['hidden']['items'] == 20
    row = scores['results']['cross_encoder']['en']
    assert row['passes'] == 400 and 0 <= row['mean_recall'] <= 100
    stage = ['--config=vldeformer:tiny,distilled', f'--config.init_from.model={tmp_path / "run"}']
    second = [f'--workdir={tmp_path / "second"}', f'--data_dir={scenes_dir}']
    done = mural('train', *stage, *second)
    assert done.returncode == 0, done.stderr
    assert 'init_from.model: ' in done.stdout and '15 negatives' in done.stderr
    temperature = metrics.read(tmp_path / 'second')[-1]['image_text/temperature']
    assert abs(temperature - 0.005) < 1e-6
    done = mural('evaluate', *second)
    assert done.returncode == 0, done.stderr
    tuned = [f'--workdir={tmp_path / "tuned"}', f'--data_dir={scenes_dir}']
    rerank = [
        f'--config.evaluators.cross_encoder.rerank.{word}'
        for word in ('k=10', f'workdir={tmp_path / "second"}')
    ]
    joint = [f'--config.init_from.model={tmp_path / "run"}', '--config=unicoder_vl:tiny,retrieval']
    done = mural('train', *joint, *rerank, *tuned)
    assert done.returncode == 0, done.stderr
    done = mural('evaluate', *tuned)
    assert done.returncode == 0, done.stderr
    scores = json.loads((tmp_path / 'tuned' / 'eval' / '12.json').read_text())
    assert 240 <= scores['results']['cross_encoder']['en']['passes'] <= 440
    done = mural('plan', '--config=unicoder_vl:tiny', '--topology=cpu:2')
    assert done.returncode == 0, done.stderr
    assert 'negatives' not in done.stdout


def test_mural_over_one_stream(data_dir: Path, tmp_path: Path) -> None:
    """Translation pairs and image-text pairs, of patches, through the same weights."""
    where = [f'--workdir={tmp_path / "run"}', f'--data_dir={data_dir}']
    done = mural('train', '--config=emoji:decomposed,tiny', *where)
    assert done.returncode == 0, done.stderr
    assert 'text_text: global batch 16, 15 negatives' in done.stderr
    done = mural('evaluate', *where)
    assert done.returncode == 0, done.stderr
    done = mural(
        'search',
        '--query=dog',
        '--k=3',
        f'--workdir={tmp_path / "run"}',
        f'--out={tmp_path / "found.png"}',
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'found.png').stat().st_size > 100


def test_classes_that_the_model_does_not_know_are_refused(scenes_dir: Path, tmp_path: Path) -> None:
    few = ['--config=unicoder_vl:tiny', '--config.model.num_classes=3']
    for verb in ('train', 'doctor'):
        done = mural(verb, *few, f'--workdir={tmp_path / "run"}', f'--data_dir={scenes_dir}')
        assert done.returncode == 2
        said = done.stdout + done.stderr
        assert re.search(r'classes up to\s+\d+', said) and 'config.model.num_classes=3' in said
        assert not (tmp_path / 'run').exists()


def test_a_task_that_it_cannot_have_is_refused(tmp_path: Path) -> None:
    done = mural('params', '--config=unicoder_vl:tiny', '--config.tasks.words.predict=letters')
    assert done.returncode == 2
    assert "predict='letters'" in done.stderr and 'regions' in done.stderr
