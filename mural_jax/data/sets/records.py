"""Reads the records of prepared data sets by their index."""

import functools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader

from mural_jax.data.sets import index as indices
from mural_jax.data.sets import schema
from mural_jax.data.sets.index import SetIndex
from mural_jax.types import UserError

MAX_THREADS = 16  # Shards that are read at a time.


class Records:
    """The records of one split of a prepared data set."""

    def __init__(self, dataset: str, split: str, data_dir: Path):
        """Opens a split.

        Args:
          dataset: `NAME/CONFIG`, such as captions/flickr8k.
          split: Name of the split.
          data_dir: Folder of all data sets.

        Raises:
          UserError: The data set is not prepared, or has no such split.
        """
        builder = _load_builder(dataset, data_dir)
        if split not in builder.info.splits:
            known = sorted(builder.info.splits)
            raise UserError(f'{dataset} has no split {split!r}; it has {known}.')
        self._lengths = np.array(builder.info.splits[split].shard_lengths)
        self._ends = np.cumsum(self._lengths)
        self._paths = [str(path) for path in builder.info.splits[split].filepaths]
        self._readers: list[Any] = [None] * len(self._paths)
        self._threads = ThreadPoolExecutor(MAX_THREADS)
        features = builder.info.features
        self.languages: list[str] = features['texts']['language'].feature.names
        self.kinds: list[str] = features['texts']['kind'].feature.names
        self.has_image = 'image' in features
        self.name = f'{dataset}:{split}'
        self.folder = Path(builder.data_path)
        self._split, self._data_dir = split, data_dir

    def __len__(self) -> int:
        return int(self._lengths.sum())

    @functools.cached_property
    def index(self) -> SetIndex:
        """The index of the texts. Raises UserError if the data set is not fully prepared."""
        try:
            return indices.read_index(self._index_folder, self.languages, self.kinds)
        except FileNotFoundError as error:
            raise _not_prepared_error(self.name.split(':')[0], self._data_dir) from error

    @functools.cached_property
    def region_facts(self) -> dict[str, Any]:
        """Facts about the regions of all examples, see `index.read_region_facts`."""
        return indices.read_region_facts(self, self.index)

    def check_features(self, size: int) -> None:
        """Raises UserError unless the features of all regions have `size` numbers."""
        if (sizes := self.region_facts['sizes']) != [size]:
            present = ', '.join(map(str, sizes)) if any(sizes) else 'no'
            raise UserError(
                f'regions.size={size}: the regions of {self.name} have features of {present} '
                'numbers.'
            )

    @property
    def default_kinds(self) -> list[str]:
        """The kinds of texts that a stream draws if its config names none."""
        about = self.folder / 'ingest.json'
        if not about.exists():
            return self.kinds
        return json.loads(about.read_text(encoding='utf-8'))['default_kinds'] or self.kinds

    def ensure_index(self) -> list[dict[str, Any]]:
        """Makes the index if it is not there yet.

        Returns:
          The bad records, each {index, id, reason, where, shard}, where `index` counts the records
          of the shard.
        """
        path = self.folder / f'quarantine-{self._split}.jsonl'
        if not self._index_folder.exists() or not path.exists():
            bad = indices.write_index(self, self._index_folder, has_image=self.has_image)
            lines = [
                json.dumps(item | self.locate(item['index']), ensure_ascii=False) for item in bad
            ]
            # Renaming is atomic: an interrupted write leaves no incomplete list.
            part = path.with_suffix('.part')
            part.write_text(''.join(f'{line}\n' for line in lines), encoding='utf-8')
            part.replace(path)
        # Only line feeds end a line here: names may hold other line breaks, at which splitlines
        # would divide them.
        with path.open(encoding='utf-8') as file:
            return [json.loads(line) for line in file]

    def locate(self, number: int) -> dict[str, Any]:
        """{'shard': file name, 'index': number in the shard} of a record, for messages."""
        shard = int(np.searchsorted(self._ends, number, side='right'))
        first = self._ends[shard] - self._lengths[shard]
        return {'shard': Path(self._paths[shard]).name, 'index': int(number - first)}

    def read(self, index_B: np.ndarray) -> np.ndarray:
        """The serialized records of the given numbers, an object array [B] of bytes."""
        # Each record is read once, even if a batch holds it several times.
        wanted, back_B = np.unique(index_B, return_inverse=True)
        shards = np.searchsorted(self._ends, wanted, side='right')
        firsts = self._ends - self._lengths
        records = np.empty(len(wanted), object)

        def read_shard(shard: int) -> None:
            here = shards == shard
            places = (wanted[here] - firsts[shard]).tolist()
            records[here] = [*self._reader(shard).read(places)]

        used = np.unique(shards).tolist()
        if len(used) == 1:
            read_shard(used[0])
        else:  # In parallel, since remote files answer slowly.
            list(self._threads.map(read_shard, used))
        return records[back_B]

    def _reader(self, shard: int) -> Any:
        # ArrayRecord's own reader: with TFDS's source a record takes twice as long.
        if self._readers[shard] is None:
            # Records are read at random, so reading ahead would be wasted.
            options = 'readahead_buffer_size:0'
            self._readers[shard] = ArrayRecordReader(self._paths[shard], options=options)
        return self._readers[shard]

    def examples(self, *, image: bool) -> Iterator[dict[str, Any]]:
        """Yields all good examples, parsed: {id, score, texts: {language: {kind: [text, ...]}}}.

        Args:
          image: Whether to add the encoded `image`, its class `label`, and the `boxes`, `classes`
            and `features` of its regions as flat lists.
        """
        texts = ('language', 'kind', 'text')
        regions = ('boxes', 'classes', 'features') if image else ()
        names = ('id', 'bad', 'score', *(['image', 'label'] if image else []))
        for _, parsed in indices.parse_records(self, *names, *texts, *regions):
            columns = [parsed[key].to_list() for key in texts]
            flat = {key: parsed[key].numpy() for key in names}
            parts = {key: parsed[key].to_list() for key in regions}
            for row in np.flatnonzero(flat['bad'] == b''):
                texts_by_language: dict[str, dict[str, list[str]]] = {}
                for language, kind, text in zip(*(column[row] for column in columns)):
                    kinds = texts_by_language.setdefault(self.languages[language], {})
                    kinds.setdefault(self.kinds[kind], []).append(text.decode())
                example: dict[str, Any] = {key: flat[key][row] for key in names}
                example |= {key: part[row] for key, part in parts.items()}
                yield example | {'id': example['id'].decode(), 'texts': texts_by_language}

    @property
    def _index_folder(self) -> Path:
        return self.folder / f'index-{self._split}'


def open_split(name: str, data_dir: Path) -> Records:
    """The records of a `DATASET:SPLIT`, with their index.

    Raises:
      UserError: The name has another form, or the data set is not prepared.
    """
    dataset, colon, split = name.partition(':')
    if not colon:
        raise UserError(f'{name!r} has no split; write it like captions/flickr8k:test.')
    records = Records(dataset, split, data_dir)
    records.ensure_index()
    return records


def read_texts(records: Records, index_B: np.ndarray) -> Any:
    """The texts of the records of the given numbers, ragged [B, ?]."""
    return schema.parse_examples(records.read(index_B), 'text')['text']


def list_splits(dataset: str, data_dir: Path) -> list[str]:
    """The splits of a prepared data set."""
    return sorted(_load_builder(dataset, data_dir).info.splits)


def _load_builder(dataset: str, data_dir: Path) -> tfds.core.DatasetBuilder:
    name = Path(dataset)
    if len(name.parts) != 2 or name.is_absolute() or '..' in name.parts:
        raise UserError(
            f'{dataset!r} is not the name of a data set; write it like captions/flickr8k.'
        )
    folders = sorted((data_dir / dataset).glob('*.*.*')) if data_dir.exists() else []
    # TFDS writes a data set into a folder incomplete.* first.
    folders = [folder for folder in folders if not folder.name.startswith('incomplete')]
    if not folders:
        raise _not_prepared_error(dataset, data_dir)
    return tfds.builder_from_directory(str(folders[-1]))


def _not_prepared_error(dataset: str, data_dir: Path) -> UserError:
    known = sorted(
        path.parent.relative_to(data_dir).as_posix()
        for path in data_dir.glob('*/*/*.*.*')
        if not path.name.startswith('incomplete')
    )
    listed = f' There are: {", ".join(known)}.' if known else ''
    how = 'Run `mural prepare` with the same --config and --data_dir first.'
    if not dataset.startswith('emoji_cldr'):
        how = (
            f'Make it with `mural data ingest FORMAT --name={dataset.partition("/")[2]} '
            '--data_dir=...`, then run `mural prepare`.'
        )
    return UserError(f'The data set {dataset} is not prepared in {data_dir}. {how}{listed}')
