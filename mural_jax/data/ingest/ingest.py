"""Makes a data set of what a reader gives, and checks it: `mural data ingest`."""

import contextlib
import dataclasses
import io
import json
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
from absl import logging as absl_logging

from mural_jax.data.ingest.builders import CaptionsBuilder, TranslationsBuilder
from mural_jax.data.ingest.emoji import EmojiCldr
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sets.records import Records, list_splits
from mural_jax.data.sources.reader import Reader
from mural_jax.types import UserError

FAMILIES = {'captions': CaptionsBuilder, 'translations': TranslationsBuilder}


def ingest(
    reader: Reader,
    name: str,
    data_dir: Path,
    limits: RecordLimits,
    max_bad: float,
    beam_options: Sequence[str] | None = None,
) -> str:
    """Builds `FAMILY/NAME` below `data_dir` if it is not there yet; gives that name.

    `beam_options` are Apache Beam's own flags; None does without Beam. Raises UserError where
    the name holds something else, or where more than `max_bad` of a split is bad.
    """
    dataset = f'{reader.family}/{name}'
    about = {
        'format': type(reader).__name__,
        'default_kinds': list(reader.default_kinds),
        'options': json.loads(json.dumps(dataclasses.asdict(reader))),
        'limits': dataclasses.asdict(limits),
    }
    done = sorted((data_dir / dataset).glob('[0-9]*/ingest.json'))
    if done:
        found = json.loads(done[-1].read_text(encoding='utf-8'))
        if found != about:
            raise UserError(
                f'{dataset} in {data_dir} was made of something else: {found["options"]}. '
                'Give another --name, or remove that folder first. Nothing was changed.'
            )
    else:
        _build(reader, dataset, data_dir, limits, beam_options, about)
    _report_splits(dataset, data_dir, max_bad)
    return dataset


def prepare_set(dataset: str, data_dir: Path, sources: dict[str, str]) -> None:
    """Builds `emoji_cldr/CONFIG`; of any other data set, makes the index if it is not there."""
    name, _, config = dataset.partition('/')
    if name == 'emoji_cldr':
        _silence_libraries()
        known = [config.name for config in EmojiCldr.BUILDER_CONFIGS]
        if config not in known:
            raise UserError(f'There is no data set {dataset!r}; emoji_cldr has {known}.')
        EmojiCldr(config=config, data_dir=str(data_dir), sources=sources).download_and_prepare()
    for split in list_splits(dataset, data_dir):
        Records(dataset, split, data_dir).make_index()


def _build(
    reader: Reader,
    dataset: str,
    data_dir: Path,
    limits: RecordLimits,
    beam_options: Sequence[str] | None,
    about: dict[str, Any],
) -> None:
    _silence_libraries()
    vocabulary = reader.vocabulary()
    family, name = dataset.split('/')
    builder = FAMILIES[family](
        name=name,
        reader=reader,
        vocabulary=vocabulary,
        limits=limits,
        beam=beam_options is not None,
        data_dir=str(data_dir),
    )
    # A folder without ingest.json is what a build that was cut off left.
    shutil.rmtree(Path(builder.data_path), ignore_errors=True)
    download = tfds.download.DownloadConfig()
    if beam_options is not None:
        from mural_jax.data.sources import beam

        download = tfds.download.DownloadConfig(beam_options=beam.make_options(beam_options))
    # TFDS says that it downloads, which nothing here does.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download)
    path = Path(builder.data_path) / 'ingest.json'
    part = path.with_suffix('.part')
    part.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding='utf-8')
    part.replace(path)


def _report_splits(dataset: str, data_dir: Path, max_bad: float) -> None:
    """Prints what each split holds. Raises UserError where too much of it is bad."""
    for split in list_splits(dataset, data_dir):
        records = Records(dataset, split, data_dir)
        bad = records.make_index()
        index = records.index
        texts = int((~index.bad_R[index.record_T]).sum())
        held = int((index.offset_L[1:] > index.offset_L[:-1]).sum())
        print(
            f'{records.name}: {len(records) - len(bad)} records, {texts} texts in '
            f'{held} languages of the kinds {", ".join(records.kinds)}'
        )
        if not bad:
            continue
        path = records.folder / f'quarantine-{split}.jsonl'
        reasons = Counter(item['reason'] for item in bad)
        counted = ', '.join(f'{count} {reason}' for reason, count in reasons.most_common())
        print(f'  left out: {counted}; listed in {path}')
        if len(bad) > max_bad * len(records):
            shown = '\n  '.join(f'{item["where"]}: {item["reason"]}' for item in bad[:10])
            raise UserError(
                f'{len(bad)} of {len(records)} records of {records.name} are bad, more than '
                f'--max_bad={max_bad}:\n  {shown}\nAll are listed in {path}. Mend the input and '
                'remove this data set, or accept them with a higher --max_bad.'
            )


def _silence_libraries() -> None:
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger('apache_beam').setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # In a file every update would be a line.
