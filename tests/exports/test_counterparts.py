"""Exports for transformers and open_clip: CLIP, SigLIP, and a ViT with a BERT."""

import functools
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from exports.trained_runs import assert_same_files, bert_config, clip, clip_bert, siglip  # noqa: F401, fixtures
from pretrained.reference import torch  # noqa: F401, defines operators that torchvision lacks

from mural_jax.config.build import lists_to_tuples
from mural_jax.config.load import load_config
from mural_jax.evaluation.external import libraries
from mural_jax.exports import counterparts
from mural_jax.exports.counterparts import CLIP, CLIP_BERT, SIGLIP
from mural_jax.exports.parity import MIN_COSINE, Agreement
from mural_jax.exports.trained import TrainedModel, describe_model
from mural_jax.exports.writer import export_checkpoint
from mural_jax.pretrained.files import read_arrays
from mural_jax.runs.restore import restore
from mural_jax.runs.run import Run
from mural_jax.types import UserError

for _name in ('transformers', 'open_clip'):
    if find_spec(_name) is None:
        pytest.skip("pip install 'mural-jax[parity]'", allow_module_level=True)

# Texts that are not among the examples of the check, and of other lengths.
TEXTS = ['paka', 'ein sehr langer Text ' * 10, '🐕 犬', '']


# (fixture of the run, format, dtype) -> (folder, results of the check).
Export = Callable[[str, str, str], tuple[Path, list[Agreement]]]


@pytest.fixture(scope='module')
def export_once(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports a run, or returns the folder if an earlier test exported the same."""

    @functools.cache
    def export(run: str, kind: str, dtype: str) -> tuple[Path, list[Agreement]]:
        out = tmp_path_factory.mktemp(run) / 'out'
        workdir = request.getfixturevalue(run)
        return out, export_checkpoint(workdir, None, kind, out, dtype, None)[1]

    return export


@pytest.mark.parametrize(
    ('run', 'kind', 'dtype'),
    [
        ('clip', 'transformers', 'float32'),
        ('siglip', 'transformers', 'float32'),
        ('clip_bert', 'transformers', 'float32'),
        ('clip', 'open_clip', 'float32'),
        ('clip', 'open_clip', 'bfloat16'),
    ],
)
def test_exported_model_gives_the_same_vectors(
    run: str, kind: str, dtype: str, export_once: Export, request: pytest.FixtureRequest
) -> None:
    out, agreements = export_once(run, kind, dtype)
    assert [agreement.tower for agreement in agreements] == ['image', 'text']
    assert all(agreement.lowest > MIN_COSINE[dtype] for agreement in agreements)
    name = f'transformers:{out}' if kind == 'transformers' else f'open_clip:local-dir:{out}'
    text_ND = libraries.load_model(name).embed_texts('', TEXTS)
    expected_ND = restore(request.getfixturevalue(run)).embedder.embed_texts('image_text', TEXTS)
    assert (text_ND * expected_ND).sum(1).min() > MIN_COSINE[dtype]
    weights = read_arrays(next(out.glob('*.safetensors')))
    assert all(np.isfinite(array).all() for array in weights.values())


def test_second_export_has_the_same_bytes(
    export_once: Export,
    clip: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    first, _ = export_once('clip', 'transformers', 'float32')
    export_checkpoint(clip, None, 'transformers', tmp_path / 'out', 'float32', None)
    assert_same_files(first, tmp_path / 'out')


def test_temperature_and_bias_are_exported(export_once: Export, siglip: Path) -> None:  # noqa: F811
    weights = read_arrays(export_once('siglip', 'transformers', 'float32')[0] / 'model.safetensors')
    _, params, _ = restore(siglip).embedder.model
    space = params['spaces']['image_text']
    log_temperature = np.asarray(space['log_temperature'])
    np.testing.assert_allclose(weights['logit_scale'], -log_temperature, rtol=1e-6)
    np.testing.assert_allclose(weights['logit_bias'], np.asarray(space['bias']), rtol=1e-6)


def test_siglip_is_exported_as_siglip(export_once: Export) -> None:
    out, _ = export_once('siglip', 'transformers', 'float32')
    config = json.loads((out / 'config.json').read_text())
    assert config['architectures'] == ['SiglipModel']


def describe_config(config: str) -> TrainedModel:
    """Returns a model of a config that has a description and no weights."""
    run = Run.of(lists_to_tuples(load_config(config, [])))
    return TrainedModel(describe_model(run, 100, None), {}, {}, None, None, '', 0, {}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(('config', 'architecture'), [('clip:tiny', CLIP), ('siglip:tiny', SIGLIP)])
def test_architecture_is_recognised(config: str, architecture: counterparts.Architecture) -> None:
    architectures = (CLIP, SIGLIP, CLIP_BERT)
    source = describe_config(config)
    assert counterparts.match_architecture(source, architectures, 'x') is architecture


def test_clip_with_bert_is_recognised(bert_config: str) -> None:  # noqa: F811
    source = describe_config(bert_config)
    assert counterparts.match_architecture(source, (CLIP, SIGLIP, CLIP_BERT), 'x') is CLIP_BERT


@pytest.mark.parametrize(
    ('config', 'kind', 'message'),
    [
        ('emoji:tiny', 'transformers', "towers.image.pool is 'mean', not 'class'"),
        ('mural:tiny', 'transformers', 'towers.image is of kind efficientnet, not vit'),
        ('siglip:tiny', 'open_clip', "towers.image.pool is 'map', not 'class'"),
        ('emoji:decomposed,tiny', 'transformers', 'one transformer for images and texts'),
    ],
)
def test_model_without_a_counterpart_is_refused_with_what_differs(
    config: str, kind: str, message: str
) -> None:
    architectures = (CLIP,) if kind == 'open_clip' else (CLIP, SIGLIP, CLIP_BERT)
    with pytest.raises(UserError, match=message):
        counterparts.match_architecture(describe_config(config), architectures, kind)
