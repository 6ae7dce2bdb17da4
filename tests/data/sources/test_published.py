"""Reading of each published caption set, from two or three records in its own layout."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from data.sources.published_files import (
    COCO,
    IMAGES,
    OTHER,
    RED,
    check_broken_files,
    read_sorted,
    write_file,
    write_images,
    write_karpathy,
)

from mural_jax.data.sources.published import (
    CocoAnnotations,
    Crossmodal3600,
    FlickrTokens,
    Karpathy,
    Multi30k,
    XFlickrCO,
    Xtd10,
)
from mural_jax.data.sources.reader import JoinedReader
from mural_jax.types import UserError


@pytest.fixture
def images(tmp_path: Path) -> tuple[str]:
    return write_images(tmp_path)


def read_captions(reader: JoinedReader, split: str) -> dict[str, list[tuple[str, str]]]:
    """The (language, text) of each image, once all are captions joined to the right image."""
    captions = {}
    for example in read_sorted(reader, split):
        (image,) = (data for name, data in IMAGES.items() if Path(name).name == example.id)
        assert not example.bad and example.image == image
        assert {kind for _, kind, _ in example.texts} == {'caption'}
        captions[example.id] = [(language, text) for language, _, text in example.texts]
    return captions


def test_karpathy_file_holds_the_splits(tmp_path: Path, images: tuple[str]) -> None:
    reader = Karpathy(captions=write_karpathy(tmp_path), images=images)
    assert list(reader.splits()) == ['test', 'train']
    assert read_captions(reader, 'test') == {COCO: [('en', 'Text 1.'), ('en', 'Text 2.')]}
    assert read_captions(reader, 'train') == {
        OTHER: [('en', 'Text 3.')],
        '1.jpg': [('en', 'Text 4.')],
    }


def test_karpathy_restval_may_be_a_split_of_its_own(tmp_path: Path, images: tuple[str]) -> None:
    file = write_karpathy(tmp_path)
    reader = Karpathy(captions=file, images=images, restval=False, language='de')
    assert read_captions(reader, 'restval') == {'1.jpg': [('de', 'Text 4.')]}


def test_karpathy_captions_have_no_score(tmp_path: Path, images: tuple[str]) -> None:
    reader = Karpathy(captions=write_karpathy(tmp_path), images=images)
    for example in read_sorted(reader, 'train'):
        assert math.isnan(example.score)


def test_json_without_the_list_is_refused(tmp_path: Path, images: tuple[str]) -> None:
    with pytest.raises(UserError, match='no list "images"'):
        Karpathy(captions=write_file(tmp_path / 'x.json', []), images=images).splits()


def test_missing_images_flag_is_named_in_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='--images'):
        read_sorted(Karpathy(captions=write_karpathy(tmp_path)), 'test')


@pytest.mark.parametrize('has_file_name', [True, False])
def test_coco_annotations_are_joined_by_image_id(
    tmp_path: Path, images: tuple[str], has_file_name: bool
) -> None:
    image: dict[str, Any] = {'id': 42, 'height': 4}
    annotations = [
        {'id': 1, 'image_id': 42, 'caption': '犬がいる', 'tokenized_caption': '犬 が いる'},
        {'id': 2, 'image_id': 42, 'caption': '犬'},
        {'id': 3, 'image_id': 43, 'caption': '誰の？'},
    ]
    file = write_file(
        tmp_path / 'stair_captions_v1.2_val.json',
        {
            'images': [image | ({'file_name': COCO} if has_file_name else {})],
            'annotations': annotations,
        },
    )
    reader = CocoAnnotations(annotations=(file,), language='ja', images=images)
    lost, good = sorted(read_sorted(reader, 'val'), key=lambda example: example.bad, reverse=True)
    assert lost.bad == 'no image name'
    assert (good.id, good.image) == (COCO, RED)
    assert good.texts == [('ja', 'caption', '犬がいる'), ('ja', 'caption', '犬')]


def test_file_name_without_split_is_refused(tmp_path: Path, images: tuple[str]) -> None:
    file = write_file(tmp_path / 'x.json', {})
    with pytest.raises(UserError, match='neither train, val nor test'):
        CocoAnnotations(annotations=(file,), images=images).splits()


def write_tokens(folder: Path) -> str:
    lines = '1.jpg#0\tA dog .\n1.jpg#1\tA "big" dog\n2.jpg#0\tA cat\nnothing\n3.jpg.1#0\tLost\n'
    return write_file(folder / 'Flickr8k.token.txt', lines)


def test_flickr_lists_of_images_make_splits(tmp_path: Path, images: tuple[str]) -> None:
    train = write_file(tmp_path / 'Flickr_8k.trainImages.txt', '1.jpg\r\n')
    dev = write_file(tmp_path / 'Flickr_8k.devImages.txt', '2.jpg\n')
    reader = FlickrTokens(captions=write_tokens(tmp_path), images=images, train=train, val=dev)
    assert read_captions(reader, 'val') == {'2.jpg': [('en', 'A cat')]}
    broken, whole = read_sorted(reader, 'train')
    assert whole.texts == [('en', 'caption', 'A dog .'), ('en', 'caption', 'A "big" dog')]
    assert broken.bad.startswith('not NAME#NUMBER')


def test_flickr_images_without_lists_are_all_train(tmp_path: Path, images: tuple[str]) -> None:
    reader = FlickrTokens(captions=write_tokens(tmp_path), images=images)
    assert [(e.id, e.bad) for e in read_sorted(reader, 'train')][1:] == [
        ('1.jpg', ''),
        ('2.jpg', ''),
        ('3.jpg.1', 'no image'),
    ]


def test_missing_caption_file_is_named_in_error(tmp_path: Path, images: tuple[str]) -> None:
    with pytest.raises(UserError, match='no file of captions'):
        FlickrTokens(captions=str(tmp_path / 'none'), images=images).splits()


@pytest.fixture
def multi30k(tmp_path: Path, images: tuple[str]) -> Multi30k:
    """A folder of task 1 with two splits."""
    write_file(tmp_path / 'raw' / 'val.en.gz', 'One\rtwo\nThree\n')
    write_file(tmp_path / 'raw' / 'val.de', 'Eins\nDrei')
    write_file(tmp_path / 'raw' / 'test_2017_mscoco.fr.gz', 'Un\n')
    write_file(tmp_path / 'image_splits' / 'val.txt', '1.jpg\n2.jpg\n')
    write_file(tmp_path / 'image_splits' / 'test_2017_mscoco.txt', f'{COCO}#367178\n')
    return Multi30k(folder=str(tmp_path), images=images)


def test_multi30k_lines_belong_to_listed_images(multi30k: Multi30k) -> None:
    assert list(multi30k.splits()) == ['test_2017_mscoco', 'val']
    val = read_captions(multi30k, 'val')
    assert set(val['1.jpg']) == {('en', 'One\rtwo'), ('de', 'Eins')}
    assert set(val['2.jpg']) == {('en', 'Three'), ('de', 'Drei')}
    assert read_captions(multi30k, 'test_2017_mscoco') == {COCO: [('fr', 'Un')]}


def test_multi30k_file_with_fewer_lines_is_refused(tmp_path: Path, multi30k: Multi30k) -> None:
    write_file(tmp_path / 'raw' / 'val.cs', 'Jedna\n')
    with pytest.raises(UserError, match='1 lines, but there are 2 images'):
        read_sorted(multi30k, 'val')


def test_multi30k_without_list_of_images_is_refused(tmp_path: Path, multi30k: Multi30k) -> None:
    (tmp_path / 'image_splits' / 'val.txt').unlink()
    with pytest.raises(UserError, match='lists the images of val'):
        read_sorted(multi30k, 'val')


def test_multi30k_folder_without_texts_is_refused(tmp_path: Path, images: tuple[str]) -> None:
    with pytest.raises(UserError, match='no raw/SPLIT'):
        Multi30k(folder=str(tmp_path / 'raw'), images=images).splits()


def test_multi30k_descriptions_are_texts_of_one_image(tmp_path: Path, images: tuple[str]) -> None:
    for number in range(1, 6):
        write_file(tmp_path / 'raw' / f'train.{number}.en.gz', f'E{number}\n')
        write_file(tmp_path / 'raw' / f'train.{number}.de.gz', f'D{number}\n')
    write_file(tmp_path / 'image_splits' / 'train_images.txt', '2.jpg\n')
    texts = read_captions(Multi30k(folder=str(tmp_path), images=images), 'train')['2.jpg']
    assert sorted(texts) == sorted(
        (language, f'{language[0].upper()}{n}') for language in ('en', 'de') for n in range(1, 6)
    )


@pytest.fixture
def xtd10(tmp_path: Path, images: tuple[str]) -> Xtd10:
    # The published Spanish file has no line feed at its end.
    write_file(tmp_path / 'test_1kcaptions_es.txt', 'Un perro\nUn gato')
    write_file(tmp_path / 'test_1kcaptions_jp.txt', '犬\n猫\n')
    names = write_file(tmp_path / 'test_image_names.txt', f'{OTHER}\n{COCO}\n')
    pattern = (str(tmp_path / 'test_1kcaptions_*.txt'),)
    return Xtd10(captions=pattern, names=names, images=images)


def test_xtd10_lines_belong_to_listed_images(xtd10: Xtd10) -> None:
    assert read_captions(xtd10, 'test') == {
        OTHER: [('es', 'Un perro'), ('jp', '犬')],
        COCO: [('es', 'Un gato'), ('jp', '猫')],
    }


def test_xtd10_file_with_more_lines_is_refused(tmp_path: Path, xtd10: Xtd10) -> None:
    write_file(tmp_path / 'test_1kcaptions_it.txt', 'Un cane\nUn gatto\n\n')
    with pytest.raises(UserError, match='3 lines'):
        read_sorted(xtd10, 'test')


def test_xtd10_file_name_without_language_is_refused(xtd10: Xtd10) -> None:
    reader = Xtd10(captions=(xtd10.names,), names=xtd10.names, images=xtd10.images)
    with pytest.raises(UserError, match='has no language'):
        read_sorted(reader, 'test')


def write_crossmodal(folder: Path) -> str:
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
    return write_file(folder / 'captions.jsonl', '\n'.join(map(json.dumps, lines)))


def test_crossmodal3600_keys_are_languages(tmp_path: Path, images: tuple[str]) -> None:
    reader = Crossmodal3600(captions=write_crossmodal(tmp_path), images=images)
    assert read_captions(reader, 'test') == {
        '1.jpg': [('mi', 'He kurī'), ('quz', 'Allqu'), ('quz', 'Huk allqu')],
        '2.jpg': [('fil', 'Pusa')],
    }


def test_crossmodal3600_file_without_image_keys_is_refused(
    tmp_path: Path, images: tuple[str]
) -> None:
    file = write_file(tmp_path / 'other.jsonl', {'id': '1'})
    with pytest.raises(UserError, match='image/key'):
        read_sorted(Crossmodal3600(captions=file, images=images), 'test')


def test_xflickrco_folders_are_languages(tmp_path: Path, images: tuple[str]) -> None:
    lines = [
        {'sentences': ['犬', '大きい犬'], 'id': '1', 'img_path': '1.jpg'},
        {'sentences': ['猫'], 'id': 42, 'img_path': COCO},
    ]
    folder = tmp_path / 'a' / 'ja'
    write_file(folder / 'test.jsonl', '\n'.join(map(json.dumps, lines)))
    write_file(folder / 'train_1.jsonl', lines[0])
    # Translated captions are English, whatever their folder.
    write_file(folder / 'test_gmt.jsonl', lines[0] | {'sentences': ['A dog']})
    reader = XFlickrCO(annotations=(str(tmp_path / 'a' / '*' / '*.jsonl'),), images=images)
    assert set(reader.splits()) == {'test', 'train'}
    test = read_captions(reader, 'test')
    assert set(test['1.jpg']) == {('ja', '犬'), ('ja', '大きい犬'), ('en', 'A dog')}
    assert test[COCO] == [('ja', '猫')]


def test_xflickrco_file_without_sentences_is_refused(tmp_path: Path, images: tuple[str]) -> None:
    file = write_file(tmp_path / 'test.jsonl', {'image/key': 1})
    with pytest.raises(UserError, match='no column'):
        read_sorted(XFlickrCO(annotations=(file,), images=images), 'test')


def make_readers(folder: Path, images: tuple[str]) -> dict[str, tuple[str, JoinedReader]]:
    """The path of a file of each kind, and a reader that reads it."""
    karpathy, lines, tokens = write_karpathy(folder), write_crossmodal(folder), write_tokens(folder)
    annotations = {'images': [{'id': 42}], 'annotations': [{'image_id': 42, 'caption': 'A'}] * 3}
    stair = write_file(folder / 'stair_val.json', annotations)
    raw = write_file(folder / 'raw' / 'val.en.gz', 'One\nTwo\n')
    names = write_file(folder / 'image_splits' / 'val.txt', '1.jpg\n2.jpg\n')
    xtd = write_file(folder / 'test_1kcaptions_es.txt', 'Un perro\nUn gato')
    return {
        'karpathy': (karpathy, Karpathy(captions=karpathy, images=images)),
        'coco': (stair, CocoAnnotations(annotations=(stair,), images=images)),
        'tokens': (tokens, FlickrTokens(captions=tokens, images=images)),
        'multi30k': (raw, Multi30k(folder=str(folder), images=images)),
        'names': (names, Multi30k(folder=str(folder), images=images)),
        'xtd10': (xtd, Xtd10(captions=(xtd,), names=names, images=images)),
        'crossmodal': (lines, Crossmodal3600(captions=lines, images=images)),
        'images': (images[0], Karpathy(captions=karpathy, images=images)),
    }


@pytest.mark.parametrize(
    'kind', ['karpathy', 'coco', 'tokens', 'multi30k', 'names', 'xtd10', 'crossmodal', 'images']
)
def test_broken_files_raise_user_error(tmp_path: Path, images: tuple[str], kind: str) -> None:
    file, reader = make_readers(tmp_path, images)[kind]
    # A file of plain lines has no structure that could be broken.
    check_broken_files(Path(file), reader, kind, may_pass=kind == 'tokens')
