"""Runs that start from published files and from other runs."""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import mural

from mural_jax.config.load import load_config
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.pretrained.load import load_initial_weights
from mural_jax.runs.run import Run
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints


class Start:
    """The initial weights of a config, with the vocabulary of a run."""

    def __init__(self, config: str, workdir: Path, *overrides: str):
        run = Run.of(load_config(config, list(overrides)))
        tokenizer = Tokenizer.load(workdir / 'vocabulary.model', run.tokenizer)
        _, self.params, self.statistics = run.build_model(tokenizer.vocab_size)
        self.paired, self.vocabulary = run.paired_spaces, tokenizer.hash

    def load(self, vocabulary: str = '', **init_from: str) -> tuple[dict, dict, list[str]]:
        """Returns (parameters, batch statistics, lines) with the weights of `init_from`."""
        return load_initial_weights(
            init_from, self.params, self.statistics, self.paired, vocabulary or self.vocabulary
        )


@pytest.fixture(scope='module')
def continued(workdir: Path) -> tuple[dict, dict, list[str]]:
    """A run without translations that starts from one with translations."""
    return Start('emoji:align,tiny', workdir, '--config.seed=9').load(model=str(workdir), image='')


def test_model_of_another_run_is_loaded_where_both_have_arrays(
    continued: tuple[dict, dict, list[str]], workdir: Path
) -> None:
    params, statistics, _ = continued
    checkpoints = Checkpoints(workdir)
    saved = checkpoints.read(checkpoints.choose(None), 'params', 'statistics')
    checkpoints.close()
    del saved['params']['spaces']['text_text']
    jax.tree.map(np.testing.assert_array_equal, {'params': params, 'statistics': statistics}, saved)


def test_arrays_of_another_run_without_a_place_are_named(
    continued: tuple[dict, dict, list[str]],
) -> None:
    assert any('spaces/text_text/heads/text/kernel' in line for line in continued[2])


def test_tower_of_another_run_fills_that_tower_alone(workdir: Path) -> None:
    start = Start('emoji:tiny', workdir, '--config.seed=9')
    params, _, _ = start.load(text=str(workdir))
    same = jax.tree.map(lambda a, b: bool(np.array_equal(a, b)), start.params, params)
    assert jax.tree.all(same['towers']['image'])
    assert not same['towers']['text']['token_VD']
    assert jax.tree.all(same['spaces'])


def test_run_with_another_vocabulary_is_refused(workdir: Path) -> None:
    with pytest.raises(UserError, match='vocabulary'):
        Start('emoji:tiny', workdir).load('another', model=str(workdir))


def test_run_of_another_size_is_refused_with_both_shapes(workdir: Path) -> None:
    start = Start('emoji:tiny', workdir, '--config.model.towers.text.layers.width=16')
    with pytest.raises(UserError, match=r'\(32,\), here it is \(16,\)'):
        start.load(text=str(workdir))


def test_pickle_is_refused_before_a_workdir_is_made(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / 'model.bin').write_bytes(b'\x80\x04.')
    done = mural(
        'train',
        '--config=emoji:tiny',
        f'--data_dir={data_dir}',
        f'--workdir={tmp_path / "run"}',
        f'--config.init_from.text={tmp_path / "model.bin"}',
    )
    assert done.returncode == 2
    assert 'weights_only=True' in done.stderr
    assert not (tmp_path / 'run').exists()


def test_params_prints_parameters_and_flops_of_clip() -> None:
    done = mural('params', '--config=clip:b32', COLUMNS='100')
    assert done.returncode == 0, done.stderr
    assert '151,277,313' in done.stdout
    assert '8.817' in done.stdout  # 4.41 G multiplications, the usual figure for ViT-B/32
