"""Makes a data set from a reader and reports its bad records: `mural data ingest`."""

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
    """Builds the data set `FAMILY/NAME` below `data_dir` if it is not there yet.

    Args:
      reader: Source of the examples; it also tells the family.
      name: Name of the data set.
      data_dir: Folder of all data sets.
      limits: Limits of a record.
      max_bad: Largest share of bad records in a split, in [0, 1].
      beam_options: Apache Beam's own flags; None to run without Beam.

    Returns:
      The full name, `FAMILY/NAME`.

    Raises:
      UserError: There is another data set of this name, or a split has more bad records.
    """
    dataset = f'{reader.family}/{name}'
    about = {
        'format': type(reader).__name__,
        'default_kinds': list(reader.default_kinds),
        # Tuples become lists, as in the file that this is compared with.
        'options': json.loads(json.dumps(dataclasses.asdict(reader))),
        'limits': dataclasses.asdict(limits),
    }
    # The file is written last, so it is only there if the build was complete.
    done = sorted((data_dir / dataset).glob('[0-9]*/ingest.json'))
    if done:
        present = json.loads(done[-1].read_text(encoding='utf-8'))
        if present != about:
            raise UserError(
                f'{dataset} in {data_dir} was made with other options: {present["options"]}. '
                'Give another --name, or remove that folder first. Nothing was changed.'
            )
    else:
        _build(reader, dataset, data_dir, limits, beam_options, about)
    _report_splits(dataset, data_dir, max_bad)
    return dataset


def prepare_set(dataset: str, data_dir: Path, sources: dict[str, str]) -> None:
    """Builds `emoji_cldr/CONFIG`, and the indices of any data set, if they are not there yet.

    Args:
      dataset: `NAME/CONFIG`.
      data_dir: Folder of all data sets.
      sources: Paths that replace those in DEFAULT_SOURCES, by name; only emoji_cldr reads them.

    Raises:
      UserError: There is no such data set.
    """
    name, _, config = dataset.partition('/')
    if name == 'emoji_cldr':
        _silence_libraries()
        known = [config.name for config in EmojiCldr.BUILDER_CONFIGS]
        if config not in known:
            raise UserError(f'There is no data set {dataset!r}; emoji_cldr has {known}.')
        EmojiCldr(config=config, data_dir=str(data_dir), sources=sources).download_and_prepare()
    for split in list_splits(dataset, data_dir):
        Records(dataset, split, data_dir).ensure_index()


def _build(
    reader: Reader,
    dataset: str,
    data_dir: Path,
    limits: RecordLimits,
    beam_options: Sequence[str] | None,
    about: dict[str, Any],
) -> None:
    _silence_libraries()
    # TFDS needs all languages and kinds before the first example, since it stores their numbers.
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
    # A folder without ingest.json is left over from an interrupted build.
    shutil.rmtree(Path(builder.data_path), ignore_errors=True)
    download = tfds.download.DownloadConfig()
    if beam_options is not None:
        from mural_jax.data.sources import beam

        download = tfds.download.DownloadConfig(beam_options=beam.make_options(beam_options))
    # TFDS prints that it downloads, but nothing is downloaded here.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_config=download)
    path = Path(builder.data_path) / 'ingest.json'
    # Renaming is atomic: an interrupted write leaves no ingest.json.
    part = path.with_suffix('.part')
    part.write_text(json.dumps(about, indent=1, ensure_ascii=False), encoding='utf-8')
    part.replace(path)


def _report_splits(dataset: str, data_dir: Path, max_bad: float) -> None:
    """Prints what each split holds. Raises UserError if too many of its records are bad."""
    for split in list_splits(dataset, data_dir):
        records = Records(dataset, split, data_dir)
        bad = records.ensure_index()
        index = records.index
        texts = int((~index.bad_R[index.record_T]).sum())
        languages = int((index.offset_L[1:] > index.offset_L[:-1]).sum())
        print(
            f'{records.name}: {len(records) - len(bad)} records, {texts} texts in '
            f'{languages} languages of the kinds {", ".join(records.kinds)}'
        )
        if not bad:
            continue
        path = records.folder / f'quarantine-{split}.jsonl'
        reasons = Counter(item['reason'] for item in bad)
        summary = ', '.join(f'{count} {reason}' for reason, count in reasons.most_common())
        print(f'  left out: {summary}; listed in {path}')
        if len(bad) > max_bad * len(records):
            first = '\n  '.join(f'{item["where"]}: {item["reason"]}' for item in bad[:10])
            raise UserError(
                f'{len(bad)} of {len(records)} records of {records.name} are bad, more than '
                f'--max_bad={max_bad}:\n  {first}\nAll are listed in {path}. Mend the input and '
                'remove this data set, or accept them with a higher --max_bad.'
            )


def _silence_libraries() -> None:
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger('apache_beam').setLevel(logging.WARNING)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()  # In a log file every update would be a line.
