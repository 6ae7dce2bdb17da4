"""Zero-shot classification against its definition, one image at a time in float64."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluation.fixed_data import FixedData, make_fixed

from mural_jax.evaluation.evaluators import class_names, classification
from mural_jax.evaluation.evaluators.classification import ZeroShotClassification
from mural_jax.evaluation.metrics.bootstrap import mean_metrics
from mural_jax.evaluation.split_data import SplitExamples
from mural_jax.types import UserError

CLASSES, EACH, DIM = 12, 4, 8
UNNAMED = (3, 7)  # classes without a name in 'yo'


class ContentEmbedder:
    """Embeds a text by its letters, and an image near the English name of its class."""

    def __init__(self, label_N: np.ndarray):
        rng = np.random.default_rng(1)
        self.label_N, self.noise_ND = label_N, rng.normal(size=(len(label_N), DIM))
        self.sizes: list[int] = []

    def embed_texts(self, space: str, texts: list[str]) -> np.ndarray:
        self.sizes.append(len(texts))
        return np.stack([embed_text(text) for text in texts])

    def embed_images(self, space: str, examples: SplitExamples) -> np.ndarray:
        near_ND = np.stack([embed_text(f'en{label}') for label in self.label_N])
        return normalize(near_ND + 0.5 * self.noise_ND)


def normalize(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def embed_text(text: str) -> np.ndarray:
    return normalize(np.random.default_rng(list(text.encode())).normal(size=DIM))


def make_data(label_N: np.ndarray | None = None) -> FixedData:
    """Images with names in 'en', in 'yo' for most classes, in 'xx' for two."""
    if label_N is None:
        label_N = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), EACH))
    texts = [
        {'en': [f'en{label}', f'another{label}']}
        | ({'yo': [f'yo{label}']} if label not in UNNAMED else {})
        | ({'xx': [f'xx{label}']} if label < 2 else {})
        for label in label_N.tolist()
    ]
    size = len(label_N)
    examples = SplitExamples(
        [str(n) for n in range(size)],
        texts,
        label_N,
        np.full(size, np.nan),
        [b''] * size,
        lambda start, stop: None,
    )
    return make_fixed(ContentEmbedder(label_N), lambda split: examples)


def make_evaluator(**options: Any) -> ZeroShotClassification:
    return ZeroShotClassification(dataset='a/b', split='val', space='pairs', **options)


def classify_by_force(
    data: FixedData, names: dict[int, str], templates: tuple[str, ...]
) -> dict[str, list[float]]:
    """Hits of the images of the named classes, in percent."""
    classes = {}
    for number, name in names.items():
        total = np.zeros(DIM)
        for template in templates:
            total += embed_text(template.replace('{}', name)).astype(np.float64)
        classes[number] = total / len(templates) / np.linalg.norm(total / len(templates))
    hits: dict[str, list[float]] = {'top1': [], 'top5': []}
    image_ND = data.embedder.embed_images('pairs', None).astype(np.float64)
    for image_D, label in zip(image_ND, data.embedder.label_N.tolist()):
        if label not in names:
            continue
        scores = {number: float((image_D * class_D).sum()) for number, class_D in classes.items()}
        above = sum(score > scores[label] for score in scores.values())
        for k in (1, 5):
            hits[f'top{k}'].append(100.0 * (above < k))
    return hits


@pytest.mark.parametrize('templates', [('{}',), ('{}', 'a photo of {}', '{}, of {}!')])
@pytest.mark.parametrize('chunk', [1 << 14, 5])
def test_image_belongs_to_nearest_name(
    templates: tuple[str, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, 'CHUNK_TEXTS', chunk)
    data = make_data()
    evaluation = make_evaluator(templates=templates)(data, ['en', 'yo'])
    assert max(data.embedder.sizes) <= max(chunk, len(templates))
    for language, unnamed in (('en', ()), ('yo', UNNAMED)):
        names = {n: f'{language}{n}' for n in range(CLASSES) if n not in unnamed}
        expected = classify_by_force(data, names, templates)
        (own,) = evaluation.samples[language]
        row = evaluation.results[language]
        for name, values in expected.items():
            np.testing.assert_allclose(own.values[name], values)
            assert row[name] == pytest.approx(np.mean(values))
        assert row['num_classes'] == len(names)
        assert row['chance'] == pytest.approx(100 / len(names))
        assert set(data.embedder.label_N[own.item_N]) == set(names)
    assert evaluation.results['en']['top1'] > 30 and evaluation.size == CLASSES * EACH


def test_all_languages_leave_out_those_with_few_classes() -> None:
    evaluation = make_evaluator(languages=('*',))(make_data(), ['never'])
    assert list(evaluation.results) == ['en', 'yo']


def test_min_classes_lets_small_languages_in() -> None:
    evaluator = make_evaluator(languages=('*',), min_classes=2)
    assert 'xx' in evaluator(make_data(), []).results


def test_classes_of_one_name_share_their_rank() -> None:
    """If all classes have one name, the accuracy is chance whatever the model."""
    label_N = np.repeat(np.arange(CLASSES), EACH)
    data = make_data(label_N)
    examples = data.read('val')._replace(texts=[{'en': ['thing']} for _ in label_N])
    data = dataclasses.replace(data, read=lambda split: examples)
    row = make_evaluator()(data, ['en']).results['en']
    assert row['top1'] == pytest.approx(row['chance'], rel=1e-5)
    assert row['top5'] == pytest.approx(500 / CLASSES, rel=1e-5)


def test_images_without_class_are_no_queries() -> None:
    label_N = np.repeat(np.arange(-1, CLASSES), EACH)
    evaluation = make_evaluator()(make_data(label_N), ['en'])
    (own,) = evaluation.samples['en']
    assert min(own.item_N) == EACH and evaluation.results['en']['num_classes'] == CLASSES
    assert mean_metrics([own])['top5'] == evaluation.results['en']['top5']


@pytest.fixture
def from_files(tmp_path: Path) -> tuple[ZeroShotClassification, Path]:
    """(an evaluator with names and templates from files, the file of names).

    One class of the names has no image; the templates are in English alone.
    """
    names, prompts = tmp_path / 'names.json', tmp_path / 'prompts.json'
    numbers = [*range(CLASSES), 500]
    content = {x: [numbers, [f'{x.lower()}{n}' for n in numbers]] for x in ('EN', 'ZH_YUE')}
    names.write_text(json.dumps(content), encoding='utf-8')
    prompts.write_text(json.dumps({'EN': ['a {} .', 'the {}']}), encoding='utf-8')
    evaluator = make_evaluator(
        languages=('*',), names_file=str(names), templates_file=str(prompts), templates=('{}!',)
    )
    return evaluator, names


def test_names_and_templates_come_from_files(from_files: Any) -> None:
    evaluator, _ = from_files
    data = make_data()
    results = evaluator(data, []).results
    # The language that the file of templates lacks takes `templates`.
    for language, templates in (('en', ('a {} .', 'the {}')), ('zh_yue', ('{}!',))):
        names = {n: f'{language}{n}' for n in range(CLASSES)}
        expected = classify_by_force(data, names, templates)
        assert results[language]['top1'] == pytest.approx(np.mean(expected['top1']))
        assert results[language]['num_classes'] == CLASSES


def test_protocol_identifies_files_by_content(from_files: Any) -> None:
    evaluator, names = from_files
    protocol = evaluator.protocol()
    assert 'names.json (sha256 ' in protocol['names'] and 'lacks' in protocol['without_templates']
    names.write_text(names.read_text(encoding='utf-8') + ' ', encoding='utf-8')
    assert evaluator.protocol()['names'] != protocol['names']


@pytest.mark.parametrize(
    ('options', 'languages', 'message'),
    [
        ({'languages': ('xx',)}, [], r'too few .* 2 in xx; min_classes=10'),
        ({}, ['en', 'qq'], r'0 in qq'),
        ({'languages': ('*',), 'min_classes': 13}, [], r'at most 12 classes .*--class_names'),
        ({'names_file': 'nowhere.json'}, ['en'], r'Cannot read nowhere.json'),
    ],
)
def test_missing_names_are_refused(options: dict, languages: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_evaluator(**options)(make_data(), languages)


@pytest.mark.parametrize('label_N', [np.full(5, -1), np.zeros(0, int)])
def test_split_without_classes_is_refused(label_N: np.ndarray) -> None:
    with pytest.raises(UserError, match=r'a/b:val has no image with a class.*--label_column'):
        make_evaluator()(make_data(label_N), ['en'])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'templates': ('a photo',)}, r"the template 'a photo' must hold \{\}"),
        ({'templates': ()}, r'has no template'),
        ({'min_classes': 1}, r'must be at least 2'),
    ],
)
def test_wrong_option_is_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_evaluator(**options)


@pytest.mark.parametrize(
    ('read', 'content', 'message'),
    [
        (class_names.read_names_file, '{"DE": [[0, 1], ["eins"]]}', r'DE is not \[\[CLASS NUM'),
        (class_names.read_names_file, '{"DE": [[0, 0], ["eins", "zwei"]]}', r'DE is not'),
        (class_names.read_names_file, '{"DE": ["eins", 3]}', r'DE is not'),
        (class_names.read_names_file, '[1]', r'holds no languages'),
        (class_names.read_names_file, '{', r'is not JSON'),
        (class_names.read_templates_file, '{"DE": ["ein Foto"]}', r'DE: the template .* \{\}'),
        (class_names.read_templates_file, '{"DE": "ein {}"}', r'DE is no list'),
        (class_names.read_templates_file, '{"DE": []}', r'DE has no template'),
    ],
)
def test_file_in_other_layout_is_refused(
    read: Any, content: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / 'file.json'
    path.write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match=message):
        read(str(path))


def test_prompts_that_cancel_out_are_refused() -> None:
    data = make_data()
    data.embedder.embed_texts = lambda space, texts: np.stack(
        [embed_text('one') * (1 if text.startswith('+') else -1) for text in texts]
    )
    with pytest.raises(UserError, match=r'12 of 12 embeddings of items are not finite'):
        make_evaluator(templates=('+{}', '-{}'))(data, ['en'])
