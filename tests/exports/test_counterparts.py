"""Folders for transformers and open_clip, read by these: CLIP, SigLIP, a ViT with BERT."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from exports.trained_runs import assert_same, bert_config, clip, clip_bert, siglip  # noqa: F401, fixtures
from pretrained.reference import torch  # noqa: F401, puts operators where torchvision looks

from mural_jax.cli import export
from mural_jax.config.build import plain
from mural_jax.config.load import load_config
from mural_jax.evaluation.external import libraries
from mural_jax.exports import counterparts
from mural_jax.exports.counterparts import CLIP, CLIP_BERT, SIGLIP
from mural_jax.exports.trained import Subject, about
from mural_jax.pretrained.files import read
from mural_jax.runs.restore import restore
from mural_jax.runs.run import Run
from mural_jax.types import UserError

for _name in ('transformers', 'open_clip'):
    if find_spec(_name) is None:
        pytest.skip("pip install 'mural-jax[parity]'", allow_module_level=True)


@pytest.mark.parametrize(
    ('which', 'kind', 'dtype'),
    [
        ('clip', 'transformers', 'float32'), ('siglip', 'transformers', 'float32'),
        ('clip_bert', 'transformers', 'float32'), ('clip', 'open_clip', 'float32'),
        ('clip', 'open_clip', 'bfloat16'),
    ],
)  # fmt: skip
def test_they_give_the_same_vectors(
    which: str, kind: str, dtype: str, request: pytest.FixtureRequest, tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    workdir, out = request.getfixturevalue(which), tmp_path / 'out'
    assert export.export(workdir, None, kind, out, dtype, None) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if 'cosine' in line]
    least = 0.9999 if dtype == 'float32' else 0.999
    assert all(float(line.split('at least ')[1].split(',')[0]) > least for line in said)
    assert len(said) == 2
    # Texts that are not among the examples, and of another length.
    texts = ['paka', 'ein sehr langer Text ' * 10, '🐕 犬', '']
    name = f'transformers:{out}' if kind == 'transformers' else f'open_clip:local-dir:{out}'
    found_ND = libraries.load(name).texts('', texts)
    wanted_ND = restore(workdir).embedder.texts('image_text', texts)
    assert (found_ND * wanted_ND).sum(1).min() > least
    weights = read(next(out.glob('*.safetensors')))
    assert all(np.isfinite(array).all() for array in weights.values())
    if which == 'clip' and dtype == 'float32':
        again = tmp_path / 'again' / 'out'
        assert export.export(workdir, None, kind, again, dtype, None) == 0
        assert_same(out, again)


def test_temperature_and_bias_leave_too(siglip: Path, tmp_path: Path) -> None:  # noqa: F811
    out = tmp_path / 'out'
    assert export.export(siglip, None, 'transformers', out, 'float32', None) == 0
    weights = read(out / 'model.safetensors')
    _, params, _ = restore(siglip).embedder.model
    log = np.asarray(params['log_temperature']['image_text'])
    np.testing.assert_allclose(weights['logit_scale'], -log, rtol=1e-6)
    bias = np.asarray(params['bias']['image_text'])
    np.testing.assert_allclose(weights['logit_bias'], bias, rtol=1e-6)
    assert json.loads((out / 'config.json').read_text())['architectures'] == ['SiglipModel']


def subject(config: str) -> Subject:
    """A model that is described and has no weights."""
    run = Run.of(plain(load_config(config, [])))
    return Subject(about(run, 100, None), {}, {}, None, None, '', 0, {}, {})  # type: ignore[arg-type]


def test_shapes_are_told_apart(bert_config: str) -> None:  # noqa: F811
    shapes = (CLIP, SIGLIP, CLIP_BERT)
    assert counterparts.chosen(subject('clip:tiny'), shapes, 'x') is CLIP
    assert counterparts.chosen(subject('siglip:tiny'), shapes, 'x') is SIGLIP
    assert counterparts.chosen(subject(bert_config), shapes, 'x') is CLIP_BERT


@pytest.mark.parametrize(
    ('config', 'kind', 'said'),
    [
        ('emoji:tiny', 'transformers', "towers.image.pool is 'mean', not 'class'"),
        ('mural:tiny', 'transformers', 'towers.image is a efficientnet, not a vit'),
        ('siglip:tiny', 'open_clip', "towers.image.pool is 'map', not 'class'"),
        ('emoji:decomposed,tiny', 'transformers', 'one transformer for pictures and texts'),
    ],
)
def test_what_has_no_counterpart_is_told(config: str, kind: str, said: str) -> None:
    shapes = (CLIP,) if kind == 'open_clip' else (CLIP, SIGLIP, CLIP_BERT)
    with pytest.raises(UserError, match=said):
        counterparts.chosen(subject(config), shapes, kind)
