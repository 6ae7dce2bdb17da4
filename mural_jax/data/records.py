"""Prepared data sets, read by index."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from mural_jax.data import schema
from mural_jax.data.emoji_cldr import EmojiCldr
from mural_jax.types import UserError

BUILDERS = {'emoji_cldr': EmojiCldr}


def prepare(dataset: str, data_dir: Path, sources: dict[str, str]) -> None:
    """Builds a data set `NAME/CONFIG` below `data_dir` if it is not there yet."""
    name, config = dataset.split('/')
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # In a file every update would be a line.
    builder = BUILDERS[name](config=config, data_dir=str(data_dir), sources=sources)
    builder.download_and_prepare()
    for split in builder.info.splits:
        path = _presence_path(Path(builder.data_path), split)
        if not path.exists():
            part = path.with_name(f'{os.getpid()}.part.npy')
            np.save(part, _presence(Records(dataset, split, data_dir, indexed=False)))
            part.rename(path)


class Records:
    """The examples of one split of a prepared data set."""

    def __init__(self, dataset: str, split: str, data_dir: Path, indexed: bool = True):
        """`dataset` is `NAME/CONFIG`. Raises UserError where it is not prepared.

        `presence_RL`, bool [records, languages], tells which languages a record has texts in;
        it is read from the index that `prepare` made, unless `indexed` is False.
        """
        if dataset.split('/')[0] not in BUILDERS:
            raise UserError(f'There is no data set {dataset!r}; known are {sorted(BUILDERS)}.')
        builder = _prepared(dataset, data_dir)
        if split not in builder.info.splits:
            known = sorted(builder.info.splits)
            raise UserError(f'{dataset} has no split {split!r}; it has {known}.')
        method = tfds.decode.DeserializeMethod.RAW_BYTES
        self._source = builder.as_data_source(split, deserialize_method=method)
        self.languages: list[str] = builder.info.features['texts']['language'].feature.names
        self.name = f'{dataset}:{split}'
        if indexed:
            path = _presence_path(Path(builder.data_path), split)
            if not path.exists():
                raise _not_prepared(dataset, data_dir)
            self.presence_RL = np.load(path)

    def __len__(self) -> int:
        return len(self._source)

    def read(self, index_B: np.ndarray) -> np.ndarray:
        """Serialized examples, an object array [B] of bytes."""
        wanted, back_B = np.unique(index_B, return_inverse=True)
        records = self._source.__getitems__(wanted.tolist())
        return np.array(records, object)[back_B]

    def language_ids(self, languages: list[str]) -> np.ndarray:
        """Columns of `presence_RL`. Raises UserError for a language without texts here."""
        counts = dict(zip(self.languages, self.presence_RL.sum(0)))
        missing = [language for language in languages if not counts.get(language)]
        if missing:
            held = ' '.join(sorted(language for language, count in counts.items() if count))
            raise UserError(f'{self.name} has no texts in {missing}. It has texts in: {held}')
        return np.array([self.languages.index(language) for language in languages])

    def examples(self, *, image: bool) -> list[dict[str, Any]]:
        """All examples, parsed: {id, concept, texts: {language: {'name': [...], ...}}, image}."""
        rows = []
        for start in range(0, len(self), 256):
            index_B = np.arange(start, min(start + 256, len(self)))
            parsed = schema.parse(tf.constant(list(self.read(index_B))), image=image)
            columns = [parsed[key].numpy() for key in ('language', 'kind', 'text')]
            for row in range(len(index_B)):
                example: dict[str, Any] = {
                    key: parsed[key][row].numpy().decode() for key in ('id', 'concept')
                }
                texts: dict[str, dict[str, list[str]]] = {}
                example['texts'] = texts
                for language, kind, text in zip(*(column[row] for column in columns)):
                    kinds = texts.setdefault(self.languages[language], {})
                    kinds.setdefault(schema.KINDS[kind], []).append(text.decode())
                if image:
                    example['image'] = parsed['image'][row].numpy()
                rows.append(example)
        return rows


def _prepared(dataset: str, data_dir: Path) -> tfds.core.DatasetBuilder:
    folders = sorted((data_dir / dataset).glob('*.*.*')) if data_dir.exists() else []
    folders = [folder for folder in folders if not folder.name.startswith('incomplete')]
    if not folders:
        raise _not_prepared(dataset, data_dir)
    return tfds.builder_from_directory(str(folders[-1]))


def _not_prepared(dataset: str, data_dir: Path) -> UserError:
    return UserError(
        f'The data set {dataset} is not prepared in {data_dir}. '
        'Run `mural prepare` with the same --config and --data_dir first.'
    )


def _presence_path(folder: Path, split: str) -> Path:
    return folder / f'languages-{split}.npy'


def _presence(records: Records) -> np.ndarray:
    """bool [records, languages]: which languages a record has texts in."""
    present_RL = np.zeros((len(records), len(records.languages)), bool)
    for start in range(0, len(records), 512):
        index_B = np.arange(start, min(start + 512, len(records)))
        language = schema.parse(tf.constant(list(records.read(index_B))), image=False)['language']
        present_RL[index_B[language.value_rowids().numpy()], language.values.numpy()] = True
    return present_RL
