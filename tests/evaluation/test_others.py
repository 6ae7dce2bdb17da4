"""Models of other libraries, and embeddings of files, scored as our own are."""

import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from data.datasets import captions, encoded, picture
from pyarrow import parquet

from mural_jax.__main__ import main
from mural_jax.evaluation import scores
from mural_jax.evaluation.external import files, libraries
from mural_jax.evaluation.split_data import Items
from mural_jax.types import UserError

IMAGE_SIZE = 32
WORDS = ['<pad>', '<unk>', '<end>', 'a', 'cat', 'dog', 'red', 'on', 'mat']
TEXTS = ['a cat', 'a red dog on a mat', 'mat', 'cat dog']
CONFIG = """
from ml_collections import ConfigDict

def get_config(arg):
    config = ConfigDict()
    config.languages = dict(some=('en', 'de'))
    config.evaluators = {
        'photos': dict(kind='image_text', dataset='captions/made', split='train', task='image_text',
                       text='caption', captions='all'),
        'hidden': dict(kind='hidden', dataset='captions/made', split='test', stream='x'),
    }
    return config
"""


def items(count: int) -> Items:
    pngs = [encoded(picture(number)) for number in range(count)]
    ids = [str(number) for number in range(count)]
    nothing = np.full(count, -1)

    def never(start: int, stop: int) -> Any:
        raise AssertionError('other libraries decode pictures themselves')

    return Items(ids, [{} for _ in ids], nothing, nothing.astype(np.float32), pngs, never)


def unit(tensor: Any) -> np.ndarray:
    array = tensor.detach().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.fixture(scope='module')
def torch() -> Any:
    from pretrained import reference  # Puts operators where torchvision looks for them.

    return reference.torch


@pytest.fixture(scope='module')
def clip(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers publishes models, random weights."""
    transformers = pytest.importorskip('transformers')
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    marks = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    text = small | marks | dict(vocab_size=len(WORDS), max_position_embeddings=16)
    vision = small | dict(image_size=IMAGE_SIZE, patch_size=8)
    made = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return saved(transformers.CLIPModel(made), tmp_path_factory.mktemp('clip'))


@pytest.fixture(scope='module')
def siglip(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    transformers = pytest.importorskip('transformers')
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = small | dict(vocab_size=len(WORDS), max_position_embeddings=16, projection_size=16)
    vision = small | dict(image_size=IMAGE_SIZE, patch_size=8)
    made = transformers.SiglipConfig(text_config=text, vision_config=vision)
    return saved(transformers.SiglipModel(made), tmp_path_factory.mktemp('siglip'))


def saved(model: Any, folder: Path) -> Path:
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='$A <end>', special_tokens=[('<end>', 2)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token='<pad>', unk_token='<unk>', eos_token='<end>',
        model_input_names=['input_ids', 'attention_mask'],
    )  # fmt: skip
    process = CLIPImageProcessorPil(
        size={'shortest_edge': IMAGE_SIZE}, crop_size={'height': IMAGE_SIZE, 'width': IMAGE_SIZE}
    )
    for part in (model, fast, process):
        part.save_pretrained(folder)
    return folder


def test_vectors_are_those_of_transformers(clip: Path, torch: Any) -> None:
    import transformers

    found = libraries.load(f'transformers:{clip}')
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    wanted = []
    for text in TEXTS:  # One by one: padding changes nothing.
        tokens = [WORDS.index(word) for word in text.split()] + [2]
        wanted.append(unit(model.get_text_features(torch.tensor([tokens])).pooler_output))
    ours = found.texts('any', TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.concatenate(wanted), atol=1e-5)
    some = items(5)
    process = transformers.AutoImageProcessor.from_pretrained(clip, backend='pil')
    pixels = process(images=[picture(number) for number in range(5)], return_tensors='pt')
    theirs = unit(model.get_image_features(**pixels).pooler_output)
    np.testing.assert_allclose(found.images('any', some), theirs, atol=1e-5)


def test_batches_change_nothing(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = libraries.load(f'transformers:{clip}')
    whole = found.texts('', TEXTS), found.images('', items(4))
    monkeypatch.setattr(libraries, 'BATCH', 3)
    for ours, theirs in zip((found.texts('', TEXTS), found.images('', items(4))), whole):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_siglip_takes_full_lengths(siglip: Path, torch: Any) -> None:
    """As it was trained: padding up to the length, and attended."""
    import transformers

    model = transformers.SiglipModel.from_pretrained(siglip).eval()
    tokens = [[WORDS.index(word) for word in text.split()] + [2] for text in TEXTS]
    filled = torch.tensor([row + [0] * (16 - len(row)) for row in tokens])
    theirs = unit(model.get_text_features(filled).pooler_output)
    ours = libraries.load(f'transformers:{siglip}').texts('', TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.fixture(scope='module')
def open_clip_folder(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    open_clip = pytest.importorskip('open_clip')
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp('open_clip')
    made = {
        'embed_dim': 12,
        'vision_cfg': {'image_size': IMAGE_SIZE, 'layers': 2, 'width': 64, 'patch_size': 8},
        'text_cfg': {'context_length': 16, 'vocab_size': 49408, 'width': 16, 'heads': 2,
                     'layers': 2},
    }  # fmt: skip
    (folder / 'open_clip_config.json').write_text(json.dumps({'model_cfg': made}))
    # Also by a name that open_clip knows.
    (folder / 'tiny-of-test.json').write_text(json.dumps(made))
    open_clip.add_model_config(folder / 'tiny-of-test.json')
    model = open_clip.create_model('tiny-of-test')
    save_file(model.state_dict(), folder / 'open_clip_model.safetensors')
    return folder


def test_vectors_are_those_of_open_clip(open_clip_folder: Path, torch: Any) -> None:
    import open_clip

    path = open_clip_folder / 'open_clip_model.safetensors'
    model, _, process = open_clip.create_model_and_transforms('tiny-of-test', pretrained=str(path))
    model.eval()
    text = unit(model.encode_text(open_clip.get_tokenizer('tiny-of-test')(TEXTS)))
    image = unit(model.encode_image(torch.stack([process(picture(n)) for n in range(5)])))
    for name in (f'tiny-of-test:{path}', f'local-dir:{open_clip_folder}'):
        found = libraries.load(f'open_clip:{name}')
        np.testing.assert_allclose(found.texts('any', TEXTS), text, atol=1e-5)
        np.testing.assert_allclose(found.images('any', items(5)), image, atol=1e-5)


class Trap:
    """A pickle that says when it is opened."""

    def __reduce__(self) -> Any:
        return (Path.write_text, (Path(sys.argv[0]).with_name('sprung'), 'x'))


def test_pickles_are_not_opened(
    open_clip_folder: Path, clip: Path, torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, 'argv', [str(tmp_path / 'x')])
    for name in ('w.pt', 'w.bin', 'pytorch_model.bin', 'open_clip_pytorch_model.bin', 'w.npz'):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    for path in (open_clip_folder / 'open_clip_config.json', *clip.glob('*.json')):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name in ('w.pt', 'w.bin', 'w.npz', 'missing.pt'):
        with pytest.raises(UserError, match='may be a pickle'):
            libraries.load(f'open_clip:tiny-of-test:{tmp_path / name}')
    with pytest.raises(UserError, match=r'open_clip_model\.safetensors'):
        libraries.load(f'open_clip:local-dir:{tmp_path}')
    with pytest.raises(UserError, match='transformers cannot read the model'):
        libraries.load(f'transformers:{tmp_path}')
    assert not (tmp_path / 'sprung').exists()


def test_published_weights_have_to_be_safe(
    open_clip_folder: Path, torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a tag and of a repository, whatever open_clip would take."""
    import open_clip

    def pickled(*_: Any) -> str:
        return '/cache/open_clip_pytorch_model.bin'

    monkeypatch.setattr(open_clip, 'download_pretrained', pickled)
    monkeypatch.setattr(open_clip.pretrained, 'download_pretrained_from_hf', pickled)
    for name in ('ViT-B-32:laion2b_s34b_b79k', 'hf-hub:somebody/something'):
        with pytest.raises(UserError, match='may be a pickle'):
            libraries.load(f'open_clip:{name}')


def test_models_that_cannot_be(
    open_clip_folder: Path, clip: Path, torch: Any, tmp_path: Path
) -> None:
    whole = (open_clip_folder / 'open_clip_model.safetensors').read_bytes()
    (tmp_path / 'cut.safetensors').write_bytes(whole[: len(whole) // 2])
    for name, message in (
        (f'open_clip:tiny-of-test:{tmp_path / "cut.safetensors"}', 'open_clip cannot read'),
        ('timm:vit', 'must be open_clip:NAME'), ('open_clip:', 'must be open_clip:NAME'),
        ('open_clip:ViT-B-32', 'random weights.*laion2b'),
        ('open_clip:no-such:x.safetensors', 'open_clip cannot read'),
        (f'transformers:{tmp_path}', 'transformers cannot read'),
    ):  # fmt: skip
        with pytest.raises(UserError, match=message):
            libraries.load(name)


def test_a_model_of_texts_alone_is_refused(clip: Path, torch: Any, tmp_path: Path) -> None:
    import transformers

    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    made = transformers.BertConfig(vocab_size=9, **small)
    transformers.BertModel(made).save_pretrained(tmp_path)
    with pytest.raises(UserError, match='BertModel: it does not embed pictures'):
        libraries.load(f'transformers:{tmp_path}')


def test_a_library_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'open_clip', None)
    with pytest.raises(UserError, match=r'open_clip cannot be imported.*mural-jax\[parity\]'):
        libraries.load('open_clip:ViT-B-32:x.safetensors')


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A data set of twelve pictures, two captions each in English and one in German."""
    pngs = {f'{number}.png': encoded(picture(number)) for number in range(12)}
    rows = [
        (name, language, f'{words} {number}')
        for number, name in enumerate(pngs)
        for language, words in (('en', 'a cat'), ('en', 'red dog'), ('de', 'mat'))
    ]
    captions(tmp_path, 'made', pngs, rows)
    (tmp_path / 'what.py').write_text(CONFIG)
    return tmp_path


def test_a_model_is_scored_by_a_config(
    clip: Path, siglip: Path, made: Path, torch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ['evaluate', f'--model=transformers:{clip}', f'--config={made / "what.py"}:x',
             f'--data_dir={made}', f'--out={made / "out"}']  # fmt: skip
    assert main(words) == 2
    assert 'hidden looks into a model' in capsys.readouterr().err
    assert main([*words, '--only', 'photos']) == 0
    found = scores.read_file(made / 'out' / 'eval' / '0.json')
    assert set(found.results['photos']) == {'en', 'de', 'mean_some'}
    assert found.protocol['photos']['captions_per_image'] == 'all'
    assert 'mean_some' in capsys.readouterr().out
    other = [word.replace(str(clip), str(siglip)) for word in words]
    assert main([*other, '--only', 'photos']) == 2
    assert f'holds scores of transformers:{clip}' in capsys.readouterr().err
    assert main([*words, '--only', 'photo']) == 2
    assert "Did you mean 'photos'?" in capsys.readouterr().err


# From here on: embeddings of files.


def units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vector = rng.normal(size=shape).astype(np.float32)
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def table(path: Path, vector: Any, **columns: list) -> Path:
    array = pa.array(list(vector), type=pa.list_(pa.float32()))
    parquet.write_table(pa.table({**columns, 'embedding': array}), path, row_group_size=7)
    return path


def recall_at_k(score_QN: np.ndarray, right_QN: np.ndarray, k: int) -> float:
    """CLIP_benchmark's, LAION-AI/CLIP_benchmark clip_benchmark/metrics/zeroshot_retrieval.py.

    The k best of each query; a query counts where at least one right item is among them:
    `recall_at_k` is the share of its right items that are found, and `evaluate` takes the mean of
    "> 0" over the queries.
    """
    best_QK = np.argsort(-score_QN, axis=1, kind='stable')[:, :k]
    found_Q = np.take_along_axis(right_QN, best_QK, axis=1).sum(1) / right_QN.sum(1)
    return 100 * float((found_Q > 0).mean())


@pytest.fixture
def several(tmp_path: Path) -> tuple[Path, Path, np.ndarray, np.ndarray, np.ndarray]:
    """30 images with one to four texts each, in no order."""
    rng = np.random.default_rng(0)
    image_ND = units(rng, 30, 8)
    owner_M = rng.permutation(np.repeat(np.arange(30), rng.integers(1, 5, 30)))
    text_MD = image_ND[owner_M] + 0.6 * units(rng, len(owner_M), 8)
    text_MD /= np.linalg.norm(text_MD, axis=1, keepdims=True)
    ids = [f'{number}.jpg' for number in range(30)]
    images = table(tmp_path / 'images.parquet', image_ND, id=ids)
    owners = [ids[owner] for owner in owner_M]
    texts = table(tmp_path / 'texts.parquet', text_MD, id=owners, language=['en'] * len(owner_M))
    return images, texts, image_ND, text_MD, owner_M


def evaluated(out: Path, *words: object) -> dict[str, Any]:
    assert main(['evaluate', *map(str, words), f'--out={out}']) == 0
    return json.loads((out / 'eval' / '0.json').read_text())


def test_recalls_are_those_of_clip_benchmark(several: Any, tmp_path: Path) -> None:
    images, texts, image_ND, text_MD, owner_M = several
    found = evaluated(tmp_path / 'out', f'--images={images}', f'--texts={texts}')
    row = found['results']['embeddings']['en']
    score_MN = text_MD @ image_ND.T
    right_MN = owner_M[:, None] == np.arange(30)
    for k in (1, 5, 10):
        theirs = recall_at_k(score_MN, right_MN, k), recall_at_k(score_MN.T, right_MN.T, k)
        ours = row[f'text_to_image_r{k}'], row[f'image_to_text_r{k}']
        assert ours == pytest.approx(theirs, abs=1e-4)
    assert 0 < row['text_to_image_r1'] < 100
    assert set(found['intervals']['embeddings']['en']) >= {'mean_recall', 'text_to_image_r1'}


def test_ties_are_counted_by_their_order_there_and_fairly_here(tmp_path: Path) -> None:
    """Ten images, each there twice: CLIP_benchmark takes what comes first, which depends on how
    rows are sorted; here it is the mean over all orders, as if one drew among the equal ones."""
    rng = np.random.default_rng(1)
    image_ND = np.repeat(units(rng, 10, 6), 2, axis=0)
    np.save(tmp_path / 'i.npy', image_ND)
    np.save(tmp_path / 't.npy', image_ND)
    words = f'--images={tmp_path / "i.npy"}', f'--texts={tmp_path / "t.npy"}'
    row = evaluated(tmp_path / 'out', *words)['results']['embeddings']['en']
    assert row['text_to_image_r1'] == row['image_to_text_r1'] == pytest.approx(50)
    score_NN = (image_ND.astype(np.float64) @ image_ND.T.astype(np.float64)).round(9)
    rows, right_NN = np.arange(20), np.eye(20, dtype=bool)
    theirs = {}
    for name, order in (('as it is', rows), ('the other way', rows[::-1])):
        theirs[name] = recall_at_k(score_NN[:, order], right_NN[:, order], 1)
    assert theirs == {'as it is': 50, 'the other way': 50}  # One of each two, whichever is first.
    # Of copies that belong to one text, it is all or nothing there, and the half here.
    assert recall_at_k(score_NN[::2], right_NN[::2], 1) == 100
    assert recall_at_k(score_NN[1::2], right_NN[1::2], 1) == 0


def test_languages_and_kinds_have_their_own_galleries(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    image_ND = units(rng, 32, 5)
    images = table(tmp_path / 'i.parquet', 3 * image_ND, id=list(range(32)))
    columns: dict[str, list] = {
        'id': [*range(28), *range(14, 31), *range(10)],
        'language': ['en'] * 28 + ['sw'] * 17 + ['en'] * 10,
        'kind': ['caption'] * 45 + ['name'] * 10,
    }
    texts = table(tmp_path / 't.parquet', image_ND[columns['id']], **columns)
    found = evaluated(tmp_path / 'out', f'--images={images}', f'--texts={texts}')
    assert set(found['results']) == {'embeddings/caption', 'embeddings/name'}
    captions = found['results']['embeddings/caption']
    assert set(captions) == {'en', 'sw', 'mean_all'}
    assert captions['sw']['text_to_image_r1'] == 100
    protocol = found['protocol']['embeddings/caption']
    assert '1 have none' in protocol['gallery'] and protocol['languages'] == ['en', 'sw']
    assert '22 have none' in found['protocol']['embeddings/name']['gallery']
    assert protocol['normalised'] == ['images']


def test_a_gallery_smaller_than_k_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for side in ('i', 't'):
        np.save(tmp_path / f'{side}.npy', np.eye(9, dtype=np.float32))
    words = [f'--images={tmp_path}/i.npy', f'--texts={tmp_path}/t.npy', '--language=sw']
    assert main(['evaluate', *words, f'--out={tmp_path}/out']) == 2
    assert 'i.npy has a gallery of 9 in sw' in capsys.readouterr().err
    assert not (tmp_path / 'out' / 'eval').exists()


def test_lengths_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vector = units(np.random.default_rng(3), 12, 5)
    np.save(tmp_path / 'i.npy', 7 * vector.astype(np.float64))
    np.save(tmp_path / 't.npy', vector)
    words = f'--images={tmp_path / "i.npy"}', f'--texts={tmp_path / "t.npy"}', '--language=sw'
    row = evaluated(tmp_path / 'out', *words)['results']['embeddings']['sw']
    assert row['mean_recall'] == 100
    said = capsys.readouterr().out
    assert 'images of' in said and 'length 1' in said and 'texts of' not in said
    # Other content of the same files is scored again, the same is not.
    assert 'skipped' in said_again(words, tmp_path, capsys)
    np.save(tmp_path / 't.npy', vector[::-1])
    assert 'skipped' not in said_again(words, tmp_path, capsys)


def said_again(words: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    evaluated(tmp_path / 'out', *words)
    return capsys.readouterr().out


def bad_arrays() -> dict[str, tuple[Any, str]]:
    good = units(np.random.default_rng(4), 6, 4)
    broken = good.copy()
    broken[2, 1] = np.nan
    empty = good.copy()
    empty[1] = 0
    return {
        'nan': (broken, '1 of 6 embeddings .* zero or not finite'),
        'zero': (empty, '1 of 6 embeddings'),
        'narrow': (good[:, :3], '4 dimensions and .* 3'),
        'none': (good[:0], r'holds float32 \[0, 4\]'),
        'flat': (good[0], r'holds float32 \[4\]'),
        'integers': (np.ones((6, 4), int), 'holds int64'),
        'fewer': (good[:5], '6 rows and .* 5'),
        'objects': (np.array([[Trap()]], object), 'no array of numbers'),
    }


@pytest.mark.parametrize('kind', bad_arrays())
def test_arrays_that_cannot_be_scored(kind: str, tmp_path: Path) -> None:
    array, message = bad_arrays()[kind]
    np.save(tmp_path / 'i.npy', units(np.random.default_rng(4), 6, 4))
    np.save(tmp_path / 't.npy', array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        files.evaluators(tmp_path / 'i.npy', tmp_path / 't.npy', '')


def lists(values: list, kind: Any = None) -> Callable[[], pa.Array]:
    return lambda: pa.array(values, type=kind or pa.list_(pa.float32()))


TABLES = {
    'another image': (lists([[1.0, 0.0]] * 3), ['a', 'b', 'x'], '1 ids of .*, such as x'),
    'lengths': (lists([[1.0, 0.0], [1.0], [1.0, 0.0]]), ['a', 'b', 'b'], 'have 2 lengths'),
    'no vector': (lists([[1.0, 0.0], None, [1.0, 0.0]]), ['a', 'b', 'b'], 'have 2 lengths'),
    'no number': (lists([[1.0, 0.0], [1.0, None], [1.0, 0.0]]), ['a', 'b', 'b'], '1 of 3'),
    'no id': (lists([[1.0, 0.0]] * 3), ['a', None, 'b'], 'column id has empty places'),
    'words': (lists(['x'] * 3, pa.string()), ['a', 'b', 'b'], 'embedding holds 3 times string'),
    'no rows': (lists([]), [], 'embedding holds 0 times'),
}


@pytest.mark.parametrize('kind', TABLES)
def test_tables_that_cannot_be_scored(kind: str, tmp_path: Path) -> None:
    column, ids, message = TABLES[kind]
    images = table(tmp_path / 'i.parquet', units(np.random.default_rng(5), 2, 2), id=['a', 'b'])
    texts = tmp_path / 't.parquet'
    columns = {'id': pa.array(ids, pa.string()), 'language': ['en'] * len(ids)}
    parquet.write_table(pa.table(columns | {'embedding': column()}), texts)
    with pytest.raises(UserError, match=message):
        files.evaluators(images, texts, '')


def test_other_mistakes_in_tables(tmp_path: Path) -> None:
    vector = units(np.random.default_rng(6), 2, 3)
    twice = table(tmp_path / 'twice.parquet', vector, id=['a', 'a'])
    texts = table(tmp_path / 't.parquet', vector, id=['a', 'a'], language=['en', 'en'])
    with pytest.raises(UserError, match='1 ids more than once'):
        files.evaluators(twice, texts, '')
    with pytest.raises(UserError, match='no column language'):
        files.evaluators(twice, twice, '')
    with pytest.raises(UserError, match='--language is for'):
        files.evaluators(twice, texts, 'de')
    with pytest.raises(UserError, match='two tables .parquet, or two arrays .npy'):
        files.evaluators(twice, tmp_path / 't.npy', '')
    (tmp_path / 'broken.parquet').write_bytes(b'PAR1 no')
    with pytest.raises(UserError, match='not a readable Parquet file'):
        files.evaluators(tmp_path / 'broken.parquet', texts, '')
    with pytest.raises(UserError, match='not a readable Parquet file'):
        files.evaluators(tmp_path / 'missing.parquet', texts, '')


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('', 'What is scored?'),
        ('--workdir=a --model=b', '--workdir and --model are given'),
        ('--texts=a.npy', 'What is scored?'),
        ('--images=a.npy --out=c', '--images needs --texts too'),
        ('--images=a.npy --texts=b.npy', '--images needs --out too'),
        ('--images=a.npy --texts=b.npy --out=c --step=3', '--step do not go with --images'),
        ('--model=open_clip:a --out=c', '--model needs --config too'),
        ('--model=open_clip:a --config=emoji --out=c --language=de', '--language do not go'),
        ('--workdir=a --out=c', '--out do not go with --workdir'),
        ('--images=a.npy --texts=b.npy --out=c', 'a.npy is no array'),
        ('--model=open_clip:a --config=emoji --out=c --config.seed=0.5 --only x', 'mural: error'),
    ],
)
def test_flags_that_do_not_go_together(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['evaluate', *words.split()]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_holds_scores_of_one_model(several: Any, tmp_path: Path) -> None:
    images, texts, *_ = several
    words = ['evaluate', f'--images={images}', f'--texts={texts}', f'--out={tmp_path / "out"}']
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'model.json').write_text('{"model": "another"}')
    assert main(words) == 2
    (tmp_path / 'out' / 'model.json').unlink()
    (tmp_path / 'out' / 'config.json').write_text('{}')
    assert main(words) == 2
