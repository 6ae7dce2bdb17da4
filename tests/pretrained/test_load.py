"""Runs that start from files and from other runs, as the commands do it."""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import mural

from mural_jax.config.load import load_config
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.pretrained.load import load
from mural_jax.runs.run import Run
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints


def start(name: str, workdir: Path, *overrides: str) -> tuple[Run, dict, dict, str]:
    run = Run.of(load_config(name, list(overrides)))
    tokenizer = Tokenizer.load(workdir / 'vocabulary.model', run.tokenizer)
    _, params, statistics = run.build_model(tokenizer.vocab_size)
    return run, params, statistics, tokenizer.hash


def test_a_run_goes_on_from_another(workdir: Path) -> None:
    """All that both have is taken over; what is new starts as it does."""
    run, params, statistics, vocabulary = start('emoji:align,tiny', workdir, '--config.seed=9')
    params, statistics, lines = load(
        {'model': str(workdir), 'image': ''}, params, statistics, run.paired_tasks, vocabulary
    )
    checkpoints = Checkpoints(workdir)
    saved = checkpoints.read(checkpoints.choose(None), 'params', 'statistics')
    checkpoints.close()
    del saved['params']['heads']['text_text'], saved['params']['log_temperature']['text_text']
    jax.tree.map(np.testing.assert_array_equal, {'params': params, 'statistics': statistics}, saved)
    assert any('heads/text_text/text/kernel' in line for line in lines)


def test_one_tower_of_a_run(workdir: Path) -> None:
    run, params, statistics, vocabulary = start('emoji:tiny', workdir, '--config.seed=9')
    placed, _, _ = load({'text': str(workdir)}, params, statistics, run.paired_tasks, vocabulary)
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), params, placed)
    assert jax.tree.all(same['towers']['image'])
    assert not same['towers']['text']['token_VD']
    assert jax.tree.all(same['heads'])


def test_another_vocabulary_or_size_is_refused(workdir: Path) -> None:
    run, params, statistics, vocabulary = start('emoji:tiny', workdir)
    with pytest.raises(UserError, match='vocabulary'):
        load({'model': str(workdir)}, params, statistics, run.paired_tasks, 'another')
    wide = '--config.model.towers.text.layers.width=16'
    run, params, statistics, _ = start('emoji:tiny', workdir, wide)
    with pytest.raises(UserError, match=r'\(32,\), here it is \(16,\)'):
        load({'text': str(workdir)}, params, statistics, run.paired_tasks, vocabulary)


def test_a_mistake_leaves_no_workdir(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / 'model.bin').write_bytes(b'\x80\x04.')
    done = mural(
        'train', '--config=emoji:tiny', f'--data_dir={data_dir}', f'--workdir={tmp_path / "run"}',
        f'--config.init_from.text={tmp_path / "model.bin"}',
    )  # fmt: skip
    assert done.returncode == 2
    assert 'weights_only=True' in done.stderr
    assert not (tmp_path / 'run').exists()


def test_params_prints_what_a_config_costs() -> None:
    done = mural('params', '--config=clip:b32', COLUMNS='100')
    assert done.returncode == 0, done.stderr
    assert '151,277,313' in done.stdout
    assert '8.817' in done.stdout  # 4.41 G multiplications, the usual figure for ViT-B/32
