"""Caption sets in their published layouts, with images joined by file name."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mural_jax.data.sources import layouts, named_images, tables
from mural_jax.data.sources.layouts import Entry
from mural_jax.data.sources.named_images import NamedImages
from mural_jax.data.sources.reader import Example
from mural_jax.types import UserError

Rows = Iterator[tuple[str, Example]]
SPLITS = ('train', 'val', 'test')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Karpathy(NamedImages):
    """COCO, Flickr30k or Flickr8k in the splits of Karpathy and Fei-Fei 2015, arXiv:1412.2306.

    dataset_coco.json, dataset_flickr30k.json and dataset_flickr8k.json
    (cs.stanford.edu/people/karpathy/deepimagesent) hold
    {"images": [{"filename", "split", "sentences": [{"raw", "sentid", ...}], ...}]}.

    captions: The JSON file.
    language: Language of the captions.
    restval: Add COCO's split restval, the rest of its validation set, to the split train.
    """

    captions: str
    language: str = 'en'
    restval: bool = True

    def splits(self) -> Mapping[str, Sequence[str]]:
        entries = (entry for _, entry in layouts.read_entries(self.captions, 'images'))
        return dict.fromkeys(sorted({self._split(entry) for entry in entries}), (self.captions,))

    def read_rows(self, split: str, part: str) -> Rows:
        for where, entry in layouts.read_entries(part, 'images'):
            if self._split(entry) == split:
                raw = [
                    sentence.get('raw') for sentence in layouts.select_dicts(entry.get('sentences'))
                ]
                yield named_images.make_row(
                    entry.get('filename'), layouts.make_captions(raw, self.language), where
                )

    def _split(self, entry: Entry) -> str:
        split = str(entry.get('split') or 'train')
        return 'train' if split == 'restval' and self.restval else split


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoAnnotations(NamedImages):
    """COCO's captions, and other sets in their format, such as STAIR Captions.

    captions_{train,val}2014.json (cocodataset.org/#format-data) and
    stair_captions_v1.2_{train,val}.json (github.com/STAIR-Lab-CIT/STAIR-captions, Japanese) hold
    {"images": [{"id", "file_name", ...}], "annotations": [{"image_id", "caption", ...}]}. An
    image without file_name is assumed to be COCO's own: COCO_val2014_000000000042.jpg for 42.

    annotations: JSON files, or patterns of them.
    language: Language of the captions.
    split: Split of all files; without the flag the name of each file tells train, val or test.
    """

    annotations: tuple[str, ...]
    language: str = 'en'
    split: str = ''

    def splits(self) -> Mapping[str, Sequence[str]]:
        return layouts.group_by_split(
            layouts.find_files(self.annotations, 'annotations'), self.split
        )

    def read_rows(self, split: str, part: str) -> Rows:
        names = {
            str(image.get('id')): image.get('file_name')
            for _, image in layouts.read_entries(part, 'images')
        }
        for where, entry in layouts.read_entries(part, 'annotations'):
            image = str(entry.get('image_id'))
            name = names.get(image)
            # An image without a file name is taken for one of COCO, whose names hold the id.
            if name is None and image in names and image.isdecimal():
                name = f'COCO_{split}2014_{image:0>12}.jpg'
            yield named_images.make_row(
                name, layouts.make_captions([entry.get('caption')], self.language), where
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlickrTokens(NamedImages):
    """Flickr8k's and Flickr30k's own captions, and translations of them in the same layout.

    Each line of Flickr8k.token.txt and results_20130124.token is NAME.jpg#NUMBER, a tab and the
    caption (Hodosh et al. 2013, Young et al. 2014). Flickr8k's file has captions of one image that
    does not exist, NAME.jpg.1; its example is bad. Without lists of images all of them are train;
    with lists an image that is in none of them is left out.

    captions: The file, or a pattern of files.
    language: Language of the captions.
    train: List of the images of the split train, such as Flickr_8k.trainImages.txt.
    val: List of the images of the split val, such as Flickr_8k.devImages.txt.
    test: List of the images of the split test, such as Flickr_8k.testImages.txt.
    """

    captions: str
    language: str = 'en'
    train: str = ''
    val: str = ''
    test: str = ''

    def splits(self) -> Mapping[str, Sequence[str]]:
        files = tables.find_files(self.captions, 'file of captions')
        listed = [split for split in SPLITS if getattr(self, split)] or ['train']
        return dict.fromkeys(listed, files)

    def read_rows(self, split: str, part: str) -> Rows:
        path = getattr(self, split)
        wanted = {line.strip() for line in layouts.read_lines(path)} if path else None
        for number, line in enumerate(layouts.read_lines(part), 1):
            name, tab, caption = line.partition('\t')
            name = name.rpartition('#')[0]  # Without the number of the caption.
            where = f'{part}:{number}'
            if not tab or not name:
                if split == self._first_split():
                    yield named_images.make_bad_row('not NAME#NUMBER, a tab and a caption', where)
            elif wanted is None or name in wanted:
                yield named_images.make_row(
                    name, layouts.make_captions([caption], self.language), where
                )

    def _first_split(self) -> str:
        """The split that broken lines belong to, since they name no image."""
        return next(iter(self.splits()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Multi30k(NamedImages):
    """Multi30k's aligned lines: task 1 (translations) or task 2 (five captions per language).

    The texts are in raw/SPLIT.LANGUAGE.gz or raw/SPLIT.NUMBER.LANGUAGE.gz; line i of
    image_splits/SPLIT.txt or image_splits/SPLIT_images.txt is the name of the image of line i
    (github.com/multi30k/dataset; Elliott et al. 2016, arXiv:1605.00459). All texts have the kind
    "caption". Splits have the names of the files: train, val, test_2016_flickr, ...

    folder: The folder data/task1 or data/task2 of the repository.
    """

    folder: str

    def splits(self) -> Mapping[str, Sequence[str]]:
        names = sorted({split for split, _, _ in self._text_files()})
        if not names:
            raise UserError(f'There is no raw/SPLIT.LANGUAGE.gz in {self.folder}.')
        return {split: (split,) for split in names}

    def read_rows(self, split: str, part: str) -> Rows:
        # In the lists of COCO's images a number follows the name: NAME.jpg#367178.
        names = [line.partition('#')[0] for line in layouts.read_lines(self._image_list(part))]
        for file_split, language, path in self._text_files():
            if file_split == part:
                for number, (name, text) in enumerate(
                    layouts.pair_names_with_lines(names, path), 1
                ):
                    yield named_images.make_row(
                        name, layouts.make_captions([text], language), f'{path}:{number}'
                    )

    def _text_files(self) -> Iterator[tuple[str, str, str]]:
        """Yields (split, language, path) of the files with texts."""
        for path in sorted((Path(self.folder).expanduser() / 'raw').glob('*')):
            match = re.fullmatch(r'(\w+)(\.[1-5])?\.([A-Za-z-]+)', path.name.removesuffix('.gz'))
            if match:
                yield match[1], match[3], str(path)

    def _image_list(self, split: str) -> str:
        folder = Path(self.folder).expanduser() / 'image_splits'
        paths = [folder / f'{split}.txt', folder / f'{split}_images.txt']
        present = [path for path in paths if path.is_file()]
        if not present:
            raise UserError(f'There is no {paths[0]}, which lists the images of {split}.')
        return str(present[0])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Xtd10(NamedImages):
    """XTD10's test captions, one line per image: Aggarwal and Kale 2020, arXiv:2012.05107.

    Line i of XTD10/test_1kcaptions_LANGUAGE.txt describes the image in line i of
    XTD10/test_image_names.txt. The images are from COCO's train2014 and val2014
    (github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10; its folders MIC and STAIR hold de,
    fr and jp). Language codes stay as the files spell them: Japanese is jp.

    captions: Files of captions, or patterns of them.
    names: File with the names of the images.
    split: Split of all captions.
    """

    captions: tuple[str, ...]
    names: str
    split: str = 'test'

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {self.split: layouts.find_files(self.captions, 'captions')}

    def read_rows(self, split: str, part: str) -> Rows:
        language = re.search(r'captions_([A-Za-z-]+)\.txt', Path(part).name)
        if not language:
            raise UserError(
                f'The name of {part} has no language; it should be test_1kcaptions_LANGUAGE.txt.'
            )
        for number, (name, text) in enumerate(
            layouts.pair_names_with_lines(list(layouts.read_lines(self.names)), part), 1
        ):
            yield named_images.make_row(
                name, layouts.make_captions([text], language[1]), f'{part}:{number}'
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crossmodal3600(NamedImages):
    """Crossmodal-3600, captions in 36 languages: Thapliyal et al. 2022, arXiv:2205.12522.

    Each line of captions.jsonl is {"image/key": KEY, "image/locale": ..., LANGUAGE:
    {"caption": [...], "caption/tokenized": [...], ...}, ...}; the image is KEY.jpg
    (google.github.io/crossmodal-3600).

    captions: The file captions.jsonl.
    split: Split of all captions.
    """

    captions: str
    split: str = 'test'

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {self.split: tables.find_files(self.captions, 'captions.jsonl')}

    def read_rows(self, split: str, part: str) -> Rows:
        for number, row in enumerate(tables.read_rows(part, ('image/key',)), 1):
            key = row.get('image/key')
            texts = [
                text
                for language, value in row.items()
                if isinstance(value, dict)
                for text in layouts.make_captions(value.get('caption'), language)
            ]
            yield named_images.make_row(f'{key}.jpg' if key else None, texts, f'{part}:{number}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class XFlickrCO(NamedImages):
    """xFlickrCO of IGLUE, captions of Flickr30k and COCO: Bugliarello et al. 2022.

    Each line of annotations/LANGUAGE/{test,train_100,...}.jsonl is {"sentences": [...], "id": ...,
    "img_path": NAME}; annotations_machine-translate/LANGUAGE/test_gmt.jsonl holds the same lines
    translated into English (github.com/e-bug/iglue, arXiv:2201.11732). Japanese captions of
    Flickr30k contain the numbers of the objects that they mention.

    annotations: Files, or patterns such as annotations/*/test.jsonl.
    language: Language of all files; without the flag the name of each file's folder, and English
        for *_gmt.jsonl.
    split: Split of all files; without the flag the name of each file tells train, val or test.
    """

    annotations: tuple[str, ...]
    language: str = ''
    split: str = ''

    def splits(self) -> Mapping[str, Sequence[str]]:
        return layouts.group_by_split(
            layouts.find_files(self.annotations, 'annotations'), self.split
        )

    def read_rows(self, split: str, part: str) -> Rows:
        path = Path(part)
        english = path.stem.endswith('_gmt')
        language = self.language or ('en' if english else path.absolute().parent.name)
        for number, row in enumerate(tables.read_rows(part, ('sentences', 'img_path')), 1):
            texts = layouts.make_captions(row.get('sentences'), language)
            yield named_images.make_row(row.get('img_path'), texts, f'{part}:{number}')
