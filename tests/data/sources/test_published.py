"""Each published caption set, from two or three records in its own layout."""

import collections
import gzip
import io
import json
import math
import random
import tarfile
from pathlib import Path
from typing import Any

import pytest
from data.fuzz import FUZZ_ROUNDS, mutate
from PIL import Image

from mural_jax.data.sources import join
from mural_jax.data.sources.crisscrossed import CrissCrossed
from mural_jax.data.sources.published import (
    CocoAnnotations,
    Crossmodal3600,
    FlickrTokens,
    Karpathy,
    Multi30k,
    XFlickrCO,
    Xtd10,
)
from mural_jax.data.sources.reader import Example, JoinedReader
from mural_jax.types import UserError

COCO = 'COCO_val2014_000000000042.jpg'
OTHER = 'COCO_train2014_000000000009.jpg'


def picture(color: str) -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (4, 4), color).save(file, 'JPEG')
    return file.getvalue()


RED, BLUE = picture('red'), picture('blue')
PICTURES = {f'val2014/{COCO}': RED, f'train2014/{OTHER}': BLUE, 'f/1.jpg': RED, 'f/2.jpg': BLUE}


@pytest.fixture
def images(tmp_path: Path) -> tuple[str]:
    path = tmp_path / 'pictures.tar.gz'
    with tarfile.open(path, 'w:gz') as archive:
        for name, content in PICTURES.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return (str(path),)


def write(path: Path, content: Any) -> str:
    """A file of what it should hold: text as it is, all else as JSON; gzipped by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == '.gz' else text.encode())
    return str(path)


def examples(reader: JoinedReader, split: str) -> list[Example]:
    return sorted(join.read_split(reader, split), key=lambda example: (example.id, example.score))


def found(reader: JoinedReader, split: str) -> dict[str, list[tuple[str, str]]]:
    """The (language, text) of each picture; all have to be captions with the picture joined."""
    result = {}
    for example in examples(reader, split):
        (right,) = (data for name, data in PICTURES.items() if Path(name).name == example.id)
        assert not example.bad and example.image == right
        assert {kind for _, kind, _ in example.texts} == {'caption'}
        result[example.id] = [(language, text) for language, _, text in example.texts]
    return result


def sentences(*numbers: int) -> list[dict[str, Any]]:
    return [{'raw': f'Text {n}.', 'tokens': ['text', str(n)], 'sentid': n} for n in numbers]


def karpathy(path: Path) -> str:
    entries = [
        {
            'filepath': 'val2014',
            'filename': COCO,
            'split': 'test',
            'cocoid': 42,
            'sentids': [1, 2],
            'sentences': sentences(1, 2),
        },
        {
            'filepath': 'train2014',
            'filename': OTHER,
            'split': 'train',
            'cocoid': 9,
            'sentids': [3],
            'sentences': sentences(3),
        },
        {'filename': '1.jpg', 'split': 'restval', 'imgid': 3, 'sentences': sentences(4)},
    ]
    return write(path / 'dataset_coco.json', {'images': entries, 'dataset': 'coco'})


def test_karpathy(tmp_path: Path, images: tuple[str]) -> None:
    file = karpathy(tmp_path)
    reader = Karpathy(captions=file, images=images)
    assert list(reader.splits()) == ['test', 'train']
    assert found(reader, 'test') == {COCO: [('en', 'Text 1.'), ('en', 'Text 2.')]}
    assert found(reader, 'train') == {OTHER: [('en', 'Text 3.')], '1.jpg': [('en', 'Text 4.')]}
    apart = Karpathy(captions=file, images=images, restval=False, language='de')
    assert found(apart, 'restval') == {'1.jpg': [('de', 'Text 4.')]}
    with pytest.raises(UserError, match='no list "images"'):
        Karpathy(captions=write(tmp_path / 'x.json', []), images=images).splits()
    with pytest.raises(UserError, match='--images'):
        examples(Karpathy(captions=file), 'test')


@pytest.mark.parametrize('named', [True, False])
def test_coco_annotations(tmp_path: Path, images: tuple[str], named: bool) -> None:
    image: dict[str, Any] = {'id': 42, 'height': 4}
    annotations = [
        {'id': 1, 'image_id': 42, 'caption': '犬がいる', 'tokenized_caption': '犬 が いる'},
        {'id': 2, 'image_id': 42, 'caption': '犬'},
        {'id': 3, 'image_id': 43, 'caption': '誰の？'},
    ]
    file = write(
        tmp_path / 'stair_captions_v1.2_val.json',
        {'images': [image | ({'file_name': COCO} if named else {})], 'annotations': annotations},
    )
    reader = CocoAnnotations(annotations=(file,), language='ja', images=images)
    lost, good = sorted(examples(reader, 'val'), key=lambda example: example.bad, reverse=True)
    assert lost.bad == 'no image name'
    assert (good.id, good.image) == (COCO, RED)
    assert good.texts == [('ja', 'caption', '犬がいる'), ('ja', 'caption', '犬')]
    with pytest.raises(UserError, match='neither train, val nor test'):
        CocoAnnotations(annotations=(write(tmp_path / 'x.json', {}),), images=images).splits()


def tokens(path: Path) -> str:
    lines = '1.jpg#0\tA dog .\n1.jpg#1\tA "big" dog\n2.jpg#0\tA cat\nnothing\n3.jpg.1#0\tLost\n'
    return write(path / 'Flickr8k.token.txt', lines)


def test_flickr_tokens(tmp_path: Path, images: tuple[str]) -> None:
    train = write(tmp_path / 'Flickr_8k.trainImages.txt', '1.jpg\r\n')
    dev = write(tmp_path / 'Flickr_8k.devImages.txt', '2.jpg\n')
    reader = FlickrTokens(captions=tokens(tmp_path), images=images, train=train, val=dev)
    assert found(reader, 'val') == {'2.jpg': [('en', 'A cat')]}
    broken, whole = examples(reader, 'train')
    assert whole.texts == [('en', 'caption', 'A dog .'), ('en', 'caption', 'A "big" dog')]
    assert broken.bad.startswith('not NAME#NUMBER')
    every = examples(FlickrTokens(captions=tokens(tmp_path), images=images), 'train')
    assert [(e.id, e.bad) for e in every][1:] == [
        ('1.jpg', ''),
        ('2.jpg', ''),
        ('3.jpg.1', 'no image'),
    ]
    with pytest.raises(UserError, match='no file of captions'):
        FlickrTokens(captions=str(tmp_path / 'none'), images=images).splits()


def test_multi30k_translations(tmp_path: Path, images: tuple[str]) -> None:
    write(tmp_path / 'raw' / 'val.en.gz', 'One\rtwo\nThree\n')
    write(tmp_path / 'raw' / 'val.de', 'Eins\nDrei')
    write(tmp_path / 'raw' / 'test_2017_mscoco.fr.gz', 'Un\n')
    write(tmp_path / 'image_splits' / 'val.txt', '1.jpg\n2.jpg\n')
    write(tmp_path / 'image_splits' / 'test_2017_mscoco.txt', f'{COCO}#367178\n')
    reader = Multi30k(folder=str(tmp_path), images=images)
    assert list(reader.splits()) == ['test_2017_mscoco', 'val']
    val = found(reader, 'val')
    assert set(val['1.jpg']) == {('en', 'One\rtwo'), ('de', 'Eins')}
    assert set(val['2.jpg']) == {('en', 'Three'), ('de', 'Drei')}
    assert found(reader, 'test_2017_mscoco') == {COCO: [('fr', 'Un')]}
    write(tmp_path / 'raw' / 'val.cs', 'Jedna\n')
    with pytest.raises(UserError, match='1 lines, but there are 2 images'):
        examples(reader, 'val')
    (tmp_path / 'image_splits' / 'val.txt').unlink()
    with pytest.raises(UserError, match='lists the images of val'):
        examples(reader, 'val')
    with pytest.raises(UserError, match='no raw/SPLIT'):
        Multi30k(folder=str(tmp_path / 'raw'), images=images).splits()


def test_multi30k_descriptions(tmp_path: Path, images: tuple[str]) -> None:
    for number in range(1, 6):
        write(tmp_path / 'raw' / f'train.{number}.en.gz', f'E{number}\n')
        write(tmp_path / 'raw' / f'train.{number}.de.gz', f'D{number}\n')
    write(tmp_path / 'image_splits' / 'train_images.txt', '2.jpg\n')
    texts = found(Multi30k(folder=str(tmp_path), images=images), 'train')['2.jpg']
    assert sorted(texts) == sorted(
        (language, f'{language[0].upper()}{n}') for language in ('en', 'de') for n in range(1, 6)
    )


def test_xtd10(tmp_path: Path, images: tuple[str]) -> None:
    # The published Spanish file has no line feed at its end.
    write(tmp_path / 'test_1kcaptions_es.txt', 'Un perro\nUn gato')
    write(tmp_path / 'test_1kcaptions_jp.txt', '犬\n猫\n')
    names = write(tmp_path / 'test_image_names.txt', f'{OTHER}\n{COCO}\n')
    pattern = (str(tmp_path / 'test_1kcaptions_*.txt'),)
    assert found(Xtd10(captions=pattern, names=names, images=images), 'test') == {
        OTHER: [('es', 'Un perro'), ('jp', '犬')],
        COCO: [('es', 'Un gato'), ('jp', '猫')],
    }
    write(tmp_path / 'test_1kcaptions_it.txt', 'Un cane\nUn gatto\n\n')
    with pytest.raises(UserError, match='3 lines'):
        examples(Xtd10(captions=pattern, names=names, images=images), 'test')
    with pytest.raises(UserError, match='has no language'):
        examples(Xtd10(captions=(names,), names=names, images=images), 'test')


def crossmodal(path: Path) -> str:
    lines = [
        {
            'image/key': '1',
            'image/locale': 'fi',
            'mi': {'caption': ['He kurī'], 'x': ['he']},
            'quz': {
                'caption': ['Allqu', 'Huk allqu'],
                'caption/tokenized': ['Allqu'],
                'caption/tokenized/lowercase': ['allqu'],
            },
        },
        {'image/key': '2', 'image/locale': 'en', 'fil': {'caption': ['Pusa']}},
    ]
    return write(path / 'captions.jsonl', '\n'.join(map(json.dumps, lines)))


def test_crossmodal3600(tmp_path: Path, images: tuple[str]) -> None:
    reader = Crossmodal3600(captions=crossmodal(tmp_path), images=images)
    assert found(reader, 'test') == {
        '1.jpg': [('mi', 'He kurī'), ('quz', 'Allqu'), ('quz', 'Huk allqu')],
        '2.jpg': [('fil', 'Pusa')],
    }
    other = write(tmp_path / 'other.jsonl', {'id': '1'})
    with pytest.raises(UserError, match='image/key'):
        examples(Crossmodal3600(captions=other, images=images), 'test')


def test_xflickrco(tmp_path: Path, images: tuple[str]) -> None:
    lines = [
        {'sentences': ['犬', '大きい犬'], 'id': '1', 'img_path': '1.jpg'},
        {'sentences': ['猫'], 'id': 42, 'img_path': COCO},
    ]
    write(tmp_path / 'a' / 'ja' / 'test.jsonl', '\n'.join(map(json.dumps, lines)))
    write(tmp_path / 'a' / 'ja' / 'train_1.jsonl', lines[0])
    english = lines[0] | {'sentences': ['A dog']}
    write(tmp_path / 'a' / 'ja' / 'test_gmt.jsonl', english)
    reader = XFlickrCO(annotations=(str(tmp_path / 'a' / '*' / '*.jsonl'),), images=images)
    assert set(reader.splits()) == {'test', 'train'}
    test = found(reader, 'test')
    assert set(test['1.jpg']) == {('ja', '犬'), ('ja', '大きい犬'), ('en', 'A dog')}
    assert test[COCO] == [('ja', '猫')]
    wrong = write(tmp_path / 'test.jsonl', {'image/key': 1})
    with pytest.raises(UserError, match='no column'):
        examples(XFlickrCO(annotations=(wrong,), images=images), 'test')


SENTENCE = 'COCO_val2014:sentid:'
HEADER = ',agg_score,sampling_method\n'


def sits(path: Path) -> str:
    return write(
        path / 'sits_val.csv',
        (
            f'caption,image{HEADER}{SENTENCE}1,{COCO},4.99,c2i_original\n'
            f'{SENTENCE}3,{COCO},1.5,c2i_intrasim\n{SENTENCE}1,{OTHER},0.2,c2i_intrasim\n'
            f'{SENTENCE}99,{COCO},1,c2i_intrasim\n{SENTENCE}1,{COCO},high,c2i_intrasim\n'
        ),
    )


def test_crisscrossed_pictures(tmp_path: Path, images: tuple[str]) -> None:
    reader = CrissCrossed(ratings=(sits(tmp_path),), captions=karpathy(tmp_path), images=images)
    good = [example for example in examples(reader, 'val') if not example.bad]
    assert [(e.id, e.score, e.texts, e.image) for e in good] == [
        (OTHER, 0.2, [('en', 'caption', 'Text 1.')], BLUE),
        (COCO, 1.5, [('en', 'caption', 'Text 3.')], RED),
        (COCO, 4.99, [('en', 'caption', 'Text 1.')], RED),
    ]
    bad = {example.bad for example in examples(reader, 'val')}
    assert bad == {'', 'no score', 'no such caption in --captions'}
    everything = list(reader.read_images(images[0], None))
    assert len(everything) == len(dict(everything)) == 4


def test_crisscrossed_texts(tmp_path: Path) -> None:
    row = f'{SENTENCE}1,{SENTENCE}3,2.4,c2c_isim\n'
    file = write(tmp_path / 'sts_test.csv', f'caption1,caption2{HEADER}{row}')
    reader = CrissCrossed(ratings=(file,), captions=karpathy(tmp_path))
    assert not reader.image_parts()
    (example,) = examples(reader, 'test')
    assert example.texts == [('en', 'sentence1', 'Text 1.'), ('en', 'sentence2', 'Text 3.')]
    assert (example.id, example.score, example.image) == ('1/3', 2.4, b'')
    both = CrissCrossed(ratings=(file, sits(tmp_path)), captions=karpathy(tmp_path))
    with pytest.raises(UserError, match='STS or of SITS'):
        both.splits()


def test_crisscrossed_pairs_of_pictures_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / 'sis_val.csv', f'image1,image2{HEADER}{COCO},{OTHER},1,i2i_csim\n')
    with pytest.raises(UserError, match='evaluation of pairs of images'):
        CrissCrossed(ratings=(file,), captions=karpathy(tmp_path)).splits()
    raw = write(
        tmp_path / 'sts_val_raw.csv', f'caption1,caption2,score\n{SENTENCE}1,{SENTENCE}2,3\n'
    )
    with pytest.raises(UserError, match='agg_score'):
        examples(CrissCrossed(ratings=(raw,), captions=karpathy(tmp_path)), 'val')


def test_scores_are_absent_elsewhere(tmp_path: Path, images: tuple[str]) -> None:
    for example in examples(Karpathy(captions=karpathy(tmp_path), images=images), 'train'):
        assert math.isnan(example.score)


def readers(folder: Path, images: tuple[str]) -> dict[str, tuple[str, JoinedReader]]:
    """Of each kind of file its path and a reader of it."""
    coco, rated, lines = karpathy(folder), sits(folder), crossmodal(folder)
    annotations = {'images': [{'id': 42}], 'annotations': [{'image_id': 42, 'caption': 'A'}] * 3}
    stair = write(folder / 'stair_val.json', annotations)
    raw = write(folder / 'raw' / 'val.en.gz', 'One\nTwo\n')
    names = write(folder / 'image_splits' / 'val.txt', '1.jpg\n2.jpg\n')
    xtd = write(folder / 'test_1kcaptions_es.txt', 'Un perro\nUn gato')
    return {
        'karpathy': (coco, Karpathy(captions=coco, images=images)),
        'coco': (stair, CocoAnnotations(annotations=(stair,), images=images)),
        'tokens': (tokens(folder), FlickrTokens(captions=tokens(folder), images=images)),
        'multi30k': (raw, Multi30k(folder=str(folder), images=images)),
        'names': (names, Multi30k(folder=str(folder), images=images)),
        'xtd10': (xtd, Xtd10(captions=(xtd,), names=names, images=images)),
        'crossmodal': (lines, Crossmodal3600(captions=lines, images=images)),
        'sits': (rated, CrissCrossed(ratings=(rated,), captions=coco, images=images)),
        'captions': (coco, CrissCrossed(ratings=(rated,), captions=coco, images=images)),
        'pictures': (images[0], Karpathy(captions=coco, images=images)),
    }


KINDS = (
    'karpathy',
    'coco',
    'tokens',
    'multi30k',
    'names',
    'xtd10',
    'crossmodal',
    'sits',
    'captions',
    'pictures',
)


@pytest.mark.parametrize('kind', KINDS)
def test_broken_files_are_told(tmp_path: Path, images: tuple[str], kind: str) -> None:
    file, reader = readers(tmp_path, images)[kind]
    data = Path(file).read_bytes()
    rng = random.Random(kind)
    outcomes: collections.Counter[bool] = collections.Counter()
    for _ in range(FUZZ_ROUNDS):
        Path(file).write_bytes(mutate(data, rng))
        try:
            for split in reader.splits():
                examples(reader, split)
            outcomes[True] += 1
        except UserError:
            outcomes[False] += 1
    # Of a file of plain lines, nothing but its end can be missed.
    assert outcomes[True] and (outcomes[False] or kind == 'tokens')
