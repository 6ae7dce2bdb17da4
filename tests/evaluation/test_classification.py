"""Zero-shot classification against its definition, one picture at a time in float64."""

import json
import types
from pathlib import Path

import numpy as np
import pytest

from mural_jax.evaluation.evaluators import class_names, classification
from mural_jax.evaluation.evaluators.classification import Classification
from mural_jax.evaluation.metrics.bootstrap import means
from mural_jax.evaluation.split_data import Items
from mural_jax.types import UserError

CLASSES, EACH, DIM = 12, 4, 8
UNNAMED = (3, 7)  # classes without a name in 'yo'


class Embedder:
    """Vectors that depend on a text alone; pictures near to the English name of their class."""

    def __init__(self, label_N: np.ndarray):
        rng = np.random.default_rng(1)
        self.label_N, self.noise_ND = label_N, rng.normal(size=(len(label_N), DIM))
        self.sizes: list[int] = []

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        self.sizes.append(len(texts))
        return np.stack([vector(text) for text in texts])

    def images(self, task: str, items: Items) -> np.ndarray:
        near_ND = np.stack([vector(f'en{label}') for label in self.label_N])
        return unit(near_ND + 0.5 * self.noise_ND)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def vector(text: str) -> np.ndarray:
    return unit(np.random.default_rng(list(text.encode())).normal(size=DIM))


def made_up(label_N: np.ndarray | None = None) -> types.SimpleNamespace:
    if label_N is None:
        label_N = np.random.default_rng(0).permutation(np.repeat(np.arange(CLASSES), EACH))
    texts = [
        {'en': [f'en{label}', f'another{label}']}
        | ({'yo': [f'yo{label}']} if label not in UNNAMED else {})
        | ({'xx': [f'xx{label}']} if label < 2 else {})
        for label in label_N.tolist()
    ]
    size = len(label_N)
    items = Items(
        [str(n) for n in range(size)], texts, label_N, np.full(size, np.nan), [b''] * size,
        lambda start, stop: None,
    )  # fmt: skip
    return types.SimpleNamespace(embedder=Embedder(label_N), items=lambda *_, images: items)


def evaluator(**options) -> Classification:
    return Classification(dataset='a/b', split='val', task='pairs', **options)


def by_force(
    sources: types.SimpleNamespace, names: dict[int, str], templates: tuple[str, ...]
) -> dict[str, list[float]]:
    """Hits of the pictures of named classes, in percent."""
    classes = {}
    for number, name in names.items():
        total = np.zeros(DIM)
        for template in templates:
            total += vector(template.replace('{}', name)).astype(np.float64)
        classes[number] = total / len(templates) / np.linalg.norm(total / len(templates))
    hits: dict[str, list[float]] = {'top1': [], 'top5': []}
    images = sources.embedder.images('pairs', None).astype(np.float64)
    for image_D, label in zip(images, sources.embedder.label_N.tolist()):
        if label not in names:
            continue
        scores = {number: float((image_D * class_D).sum()) for number, class_D in classes.items()}
        above = sum(score > scores[label] for score in scores.values())
        for k in (1, 5):
            hits[f'top{k}'].append(100.0 * (above < k))
    return hits


@pytest.mark.parametrize('templates', [('{}',), ('{}', 'a photo of {}', '{}, of {}!')])
@pytest.mark.parametrize('texts', [1 << 14, 5])
def test_the_nearest_name_is_the_class(
    templates: tuple[str, ...], texts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classification, 'TEXTS', texts)
    sources = made_up()
    scored = evaluator(templates=templates)(sources, ['en', 'yo'])
    assert max(sources.embedder.sizes) <= max(texts, len(templates))
    for language, unnamed in (('en', ()), ('yo', UNNAMED)):
        names = {n: f'{language}{n}' for n in range(CLASSES) if n not in unnamed}
        wanted = by_force(sources, names, templates)
        (own,) = scored.samples[language]
        for name, values in wanted.items():
            np.testing.assert_allclose(own.values[name], values)
            assert scored.results[language][name] == pytest.approx(np.mean(values))
        assert scored.results[language]['num_classes'] == len(names)
        assert scored.results[language]['chance'] == pytest.approx(100 / len(names))
        assert set(sources.embedder.label_N[own.item_N]) == set(names)
    assert scored.results['en']['top1'] > 30 and scored.size == CLASSES * EACH


def test_languages_with_few_classes_are_left_out() -> None:
    every = evaluator(languages=('*',))(made_up(), ['never'])
    assert list(every.results) == ['en', 'yo']
    assert 'xx' in evaluator(languages=('*',), min_classes=2)(made_up(), []).results


def test_classes_of_one_name_share_their_rank() -> None:
    """All classes have one name: chance, whatever the model."""
    label_N = np.repeat(np.arange(CLASSES), EACH)
    sources = made_up(label_N)
    items = sources.items(images=True)._replace(texts=[{'en': ['thing']} for _ in label_N])
    sources.items = lambda *_, images: items
    row = evaluator()(sources, ['en']).results['en']
    assert row['top1'] == pytest.approx(row['chance'], rel=1e-5)
    assert row['top5'] == pytest.approx(500 / CLASSES, rel=1e-5)


def test_pictures_without_a_class_are_no_queries() -> None:
    label_N = np.repeat(np.arange(-1, CLASSES), EACH)
    scored = evaluator()(made_up(label_N), ['en'])
    (own,) = scored.samples['en']
    assert min(own.item_N) == EACH and scored.results['en']['num_classes'] == CLASSES
    assert means([own])['top5'] == scored.results['en']['top5']


def test_published_names_and_templates(tmp_path: Path) -> None:
    """Classes that no picture has are none; what the file of templates lacks takes `templates`."""
    names, prompts = tmp_path / 'names.json', tmp_path / 'prompts.json'
    numbers = [*range(CLASSES), 500]
    said = {x: [numbers, [f'{x.lower()}{n}' for n in numbers]] for x in ('EN', 'ZH_YUE')}
    names.write_text(json.dumps(said), encoding='utf-8')
    prompts.write_text(json.dumps({'EN': ['a {} .', 'the {}']}), encoding='utf-8')
    chosen = evaluator(
        languages=('*',), names_file=str(names), templates_file=str(prompts), templates=('{}!',)
    )
    sources = made_up()
    scored = chosen(sources, [])
    for language, templates in (('en', ('a {} .', 'the {}')), ('zh_yue', ('{}!',))):
        wanted = by_force(sources, {n: f'{language}{n}' for n in range(CLASSES)}, templates)
        assert scored.results[language]['top1'] == pytest.approx(np.mean(wanted['top1']))
        assert scored.results[language]['num_classes'] == CLASSES
    said_so = chosen.protocol()
    assert 'names.json (sha256 ' in said_so['names'] and 'lacks' in said_so['without_templates']
    names.write_text(names.read_text(encoding='utf-8') + ' ', encoding='utf-8')
    assert chosen.protocol()['names'] != said_so['names']


@pytest.mark.parametrize(
    ('options', 'languages', 'said'),
    [
        ({'languages': ('xx',)}, [], r'too few .* 2 in xx; min_classes=10'),
        ({}, ['en', 'qq'], r'0 in qq'),
        ({'languages': ('*',), 'min_classes': 13}, [], r'at most 12 classes .*--class_names'),
        ({'names_file': 'nowhere.json'}, ['en'], r'Cannot read nowhere.json'),
    ],
)
def test_what_cannot_be_scored_is_refused(options: dict, languages: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluator(**options)(made_up(), languages)


@pytest.mark.parametrize('label_N', [np.full(5, -1), np.zeros(0, int)])
def test_pictures_without_any_class_are_refused(label_N: np.ndarray) -> None:
    with pytest.raises(UserError, match=r'a/b:val has no picture with a class.*--label_column'):
        evaluator()(made_up(label_N), ['en'])


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({'templates': ('a photo',)}, r"the template 'a photo' must hold \{\}"),
        ({'templates': ()}, r'has no template'),
        ({'min_classes': 1}, r'must be at least 2'),
    ],
)
def test_bad_options_are_refused(options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        evaluator(**options)


@pytest.mark.parametrize(
    ('read', 'content', 'said'),
    [
        (class_names.published, '{"DE": [[0, 1], ["eins"]]}', r'DE is not \[\[CLASS NUMBERS\]'),
        (class_names.published, '{"DE": [[0, 0], ["eins", "zwei"]]}', r'DE is not'),
        (class_names.published, '{"DE": ["eins", 3]}', r'DE is not'),
        (class_names.published, '[1]', r'holds no languages'),
        (class_names.published, '{', r'is no JSON'),
        (class_names.published_templates, '{"DE": ["ein Foto"]}', r'DE: the template .* \{\}'),
        (class_names.published_templates, '{"DE": "ein {}"}', r'DE is no list'),
        (class_names.published_templates, '{"DE": []}', r'DE has no template'),
    ],
)
def test_files_in_another_layout_are_refused(read, content: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / 'file.json'
    path.write_text(content, encoding='utf-8')
    with pytest.raises(UserError, match=said):
        read(str(path))


def test_names_without_a_direction_are_refused() -> None:
    sources = made_up()
    sources.embedder.texts = lambda task, texts: np.stack(
        [vector('one') * (1 if text.startswith('+') else -1) for text in texts]
    )
    with pytest.raises(UserError, match=r'12 of 12 embeddings of items are not finite'):
        evaluator(templates=('+{}', '-{}'))(sources, ['en'])
