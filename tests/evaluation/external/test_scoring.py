"""`mural evaluate` of models of other libraries: scores, refusals, folders of one model."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest
from data.datasets import draw_image, encode_image, ingest_captions
from evaluation.external.published import import_torch, make_clip, make_siglip

from mural_jax.cli.parser import main
from mural_jax.evaluation import scores

CONFIG = """
from ml_collections import ConfigDict

def get_config(arg):
    config = ConfigDict()
    config.languages = dict(some=('en', 'de'))
    config.evaluators = {
        'photos': dict(kind='image_text', dataset='captions/made', split='train',
                       space='image_text', text='caption', captions='all'),
        'hidden': dict(kind='hidden', dataset='captions/made', split='test', stream='x'),
    }
    return config
"""


class ScoredModel(NamedTuple):
    """A CLIP that was scored: the flags of the command without --only, and what it printed."""

    clip: Path
    flags: list[str]
    out: Path
    output: str


@pytest.fixture(scope='module')
def scored(tmp_path_factory: pytest.TempPathFactory) -> ScoredModel:
    """Scores on twelve images with two captions each in English and one in German."""
    import_torch()
    folder = tmp_path_factory.mktemp('scored')
    clip = make_clip(folder / 'clip')
    pngs = {f'{number}.png': encode_image(draw_image(number)) for number in range(12)}
    rows = [
        (name, language, f'{words} {number}')
        for number, name in enumerate(pngs)
        for language, words in (('en', 'a cat'), ('en', 'red dog'), ('de', 'mat'))
    ]
    ingest_captions(folder, 'made', pngs, rows)
    (folder / 'what.py').write_text(CONFIG)
    flags = [
        'evaluate',
        f'--model=transformers:{clip}',
        f'--config={folder / "what.py"}:x',
        f'--data_dir={folder}',
        f'--out={folder / "out"}',
    ]
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main([*flags, '--only', 'photos']) == 0
    return ScoredModel(clip, flags, folder / 'out', output.getvalue())


def test_model_is_scored_by_config(scored: ScoredModel) -> None:
    found = scores.read_file(scored.out / 'eval' / '0.json')
    assert set(found.results['photos']) == {'en', 'de', 'mean_some'}
    assert found.protocol['photos']['captions_per_image'] == 'all'
    assert 'mean_some' in scored.output


def test_evaluator_with_joint_passes_is_refused(
    scored: ScoredModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(scored.flags) == 2
    assert 'hidden needs joint passes' in capsys.readouterr().err


def test_folder_of_another_model_is_refused(
    scored: ScoredModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    siglip = make_siglip(tmp_path / 'siglip')
    flags = [word.replace(str(scored.clip), str(siglip)) for word in scored.flags]
    assert main([*flags, '--only', 'photos']) == 2
    assert f'holds scores of transformers:{scored.clip}' in capsys.readouterr().err


def test_unknown_evaluator_has_suggestion(
    scored: ScoredModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*scored.flags, '--only', 'photo']) == 2
    assert "Did you mean 'photos'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('--texts=a.npy', 'What is scored?'),
        ('--images=a.npy --texts=b.npy', '--images needs --out too'),
        ('--images=a.npy --texts=b.npy --out=c --step=3', '--step do not go with --images'),
        ('--model=open_clip:a --out=c', '--model needs --config too'),
        ('--model=open_clip:a --config=emoji --out=c --language=de', '--language do not go'),
        ('--workdir=a --out=c', '--out do not go with --workdir'),
        ('--images=a.npy --texts=b.npy --out=c', 'a.npy is no array'),
        ('--model=open_clip:a --config=emoji --out=c --config.seed=0.5 --only x', 'mural: error'),
    ],
)
def test_flags_that_do_not_fit_are_refused(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate', *words.split()]) == 2
    assert message in capsys.readouterr().err
