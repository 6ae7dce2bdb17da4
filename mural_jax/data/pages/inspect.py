"""Writes a page about the streams of a config: what they hold, what they draw, and batches."""

import base64
import dataclasses
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tensorflow as tf
from PIL import Image
from rich.console import Console
from rich.table import Table

from mural_jax.data.fitted.catalog import load_fitted
from mural_jax.data.pages import contents, histograms
from mural_jax.data.pages.contents import SourceContents
from mural_jax.data.reading.stream import OpenStream, open_stream
from mural_jax.data.sets import checks, schema
from mural_jax.data.streams.base import Stream
from mural_jax.data.tokenizer import Tokenizer

SHEET = 24  # Images of the contact sheet.
CAPTIONS = 5  # Texts below each of these images.
SIDE = 200  # Largest side of these images, in pixels.
BATCHES, SHOWN = 2, 16  # Batches, and examples of each, on the page.
SAMPLED = 2000  # Texts whose tokens are counted.
PRINTED = 40  # Languages in the terminal.
CHUNK = 100  # Examples that are read at a time.
HIDDEN = '[MASK]'
# Errors of a record that cannot be read, which training would replace by another one.
BROKEN = (tf.errors.OpError, ValueError, OSError, RuntimeError)


def write_page(
    streams: Mapping[str, Stream], data_dir: Path, tokenizer: Tokenizer, seed: int, out: Path
) -> Path:
    """Writes the page and prints the number of texts in each language.

    Args:
      streams: The streams of the config, by name and in its order.
      data_dir: Folder of all data sets.
      tokenizer: The tokenizer of the run.
      seed: Seed of the run, so that the batches are the first ones of its training.
      out: Path of the page.

    Returns:
      `out`.

    Raises:
      UserError: Data is not prepared.
    """
    sections = []
    for number, (name, spec) in enumerate(streams.items()):
        # An example depends only on its position, so smaller batches begin with the same examples.
        few = dataclasses.replace(spec, batch_size=min(SHOWN, spec.batch_size))
        # The seed that training gives to each stream, so that streams differ in their order.
        stream = open_stream(
            few, data_dir, tokenizer, seed * 1009 + number, load_fitted(spec, data_dir)
        )
        sections.append(_describe_stream(name, spec, stream, data_dir, tokenizer))
    console = Console()
    for section in sections:
        for source in section['contents']:
            counts = f'{source.dataset}, {source.records:,} records, {source.bad:,} bad'
            console.print(f'\n{section["name"]}: {counts}', highlight=False)
            console.print(_make_table(source))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters['tag'] = lambda language: language.replace('_', '-')
    environment.filters['percent'] = format_percent
    template = Path(__file__).with_name('inspect.html').read_text(encoding='utf-8')
    html = environment.from_string(template).render(sections=sections, data_dir=data_dir.resolve())
    part = out.with_suffix('.part')
    part.write_text(html, encoding='utf-8')
    part.replace(out)
    return out


def format_percent(share: float) -> str:
    """A share in percent, with two significant digits below 1%."""
    return f'{100 * share:.2g}%' if 0 < share < 0.01 else f'{100 * share:.1f}%'


def _describe_stream(
    name: str, spec: Stream, stream: OpenStream, data_dir: Path, tokenizer: Tokenizer
) -> dict[str, Any]:
    sources = contents.describe_sources(spec, stream.pool)
    lengths = np.array(_count_tokens(stream, tokenizer))
    figures = [histograms.draw_token_histogram(lengths, spec.max_length)] if len(lengths) else []
    if spec.images:
        figures += histograms.draw_image_histograms(stream.pool.records, spec.images.size)
    return {
        'name': name,
        'kind': type(spec).__name__.lower(),
        'contents': sources,
        'settings': _list_settings(spec),
        'drops': contents.describe_drops(spec, data_dir),
        'histograms': figures,
        'num_lengths': len(lengths),
        'mean_length': lengths.mean() if len(lengths) else 0,
        'cut': (lengths > spec.max_length).mean() if len(lengths) else 0,
        'sheet': list(_sample_records(stream)) if spec.images else [],
        'batches': [
            list(_read_batch(stream, tokenizer, number * spec.batch_size))
            for number in range(BATCHES)
        ],
        'batch_size': spec.batch_size,
        'has_image': spec.images is not None,
    }


def _list_settings(spec: Stream) -> dict[str, str]:
    """The settings of a stream that differ from the default, as words."""
    settings = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name in ('sources', 'languages') or value == field.default or not value:
            continue
        settings[field.name] = _format_setting(value)
    return settings


def _format_setting(value: Any) -> str:
    """The value of a setting as words."""
    if dataclasses.is_dataclass(value):
        value = {key: x for key, x in vars(value).items() if x}
    if isinstance(value, Mapping):
        words = (
            f'({_format_setting(x)})' if isinstance(x, Mapping) else _format_setting(x)
            for x in value.values()
        )
        return ', '.join(f'{key} {x}' for key, x in zip(value, words))
    return ' '.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _count_tokens(stream: OpenStream, tokenizer: Tokenizer) -> list[int]:
    """Numbers of tokens, with special tokens, of a stream's first texts before they are cut."""
    lengths: list[int] = []
    for start in range(0, SAMPLED // stream.settings.num_texts, CHUNK):
        try:
            texts = stream.read_texts(np.arange(start, start + CHUNK))
        except BROKEN:
            continue
        lengths += [len(ids) for side in texts for ids in tokenizer.encode(side, 2**16)]
    return lengths[:SAMPLED]


def _sample_records(stream: OpenStream) -> Iterator[dict[str, Any]]:
    """Yields stored images in the order of the stream, with texts of each in some languages."""
    pool = stream.pool
    member_B = stream.members_at(np.arange(10 * SHEET))
    records_B2 = np.stack([pool.source_G[member_B], pool.record_G[member_B]], axis=1)
    # Each image once: a stream draws it again for its other languages.
    _, first = np.unique(records_B2, axis=0, return_index=True)
    for number, place in enumerate(np.sort(first)[:SHEET]):
        member = member_B[place]
        records = pool.records[pool.source_G[member]]
        try:
            names = ('id', 'image', 'language', 'kind', 'text')
            parsed = schema.parse_examples(tf.constant(pool.read(np.array([member]))), *names)
            image = Image.fromarray(checks.decode_image(parsed['image'].numpy()[0]))
        except BROKEN as error:
            yield {'id': str(pool.locate(int(member))), 'bad': str(error)[:100], 'texts': []}
            continue
        texts: dict[str, str] = {}
        for language, text in zip(*(parsed[key][0].numpy() for key in ('language', 'text'))):
            texts.setdefault(records.languages[language], text.decode(errors='replace'))
        languages = [language for language in pool.languages if language in texts]
        # Each image starts with another language, so that the sheet shows all of them.
        turn = number * CAPTIONS % max(len(languages), 1)
        yield {
            'id': parsed['id'].numpy()[0].decode(),
            'bad': '',
            'size': f'{image.width}×{image.height}',
            'image': _encode_jpeg(image, SIDE),
            'texts': [(x, texts[x]) for x in (languages[turn:] + languages[:turn])[:CAPTIONS]],
            'more': max(len(languages) - CAPTIONS, 0),
        }


def _read_batch(
    stream: OpenStream, tokenizer: Tokenizer, position: int
) -> Iterator[dict[str, Any]]:
    """Yields the examples of a batch: image, tokens and the texts they encode, ids, origin."""
    batch = next(iter(stream.batches(position, 1)))
    fields = stream.settings.fields()
    names = [name for name, field in fields.items() if field.role in ('text', 'tags')]
    pivots = stream.settings.pivots or ()
    # The batch does not tell the language of the target, so it is known only for a single pivot.
    pivot = pivots[0] if len(pivots) == 1 else ''
    for row in range(stream.batch_size):
        origin = stream.labels[batch['origin'][row]]
        language = origin.rpartition('/')[2]
        texts = []
        for name in names:
            ids = [int(i) for i in batch[name][row] if i != tokenizer.pad_id]
            text_language = pivot if name == 'target' else language
            # The mask token has the number after the vocabulary's last token.
            shown = [HIDDEN if i == tokenizer.vocab_size else tokenizer.decode([i]) for i in ids]
            whole = ' '.join(shown) if HIDDEN in shown else tokenizer.decode(ids)
            texts.append({'language': text_language, 'text': whole, 'tokens': ids})
        image = _batch_image(stream.settings, {name: value[row] for name, value in batch.items()})
        yield {
            'origin': origin,
            'ids': batch['ids'][row].tolist(),
            'texts': texts,
            'image': _encode_jpeg(image) if image else '',
        }


def _batch_image(spec: Stream, example: Mapping[str, Any]) -> Image.Image | None:
    """The image of an example, or its regions of pixels side by side; None without pixels."""
    if 'image' in example:
        return Image.fromarray(example['image'])
    regions = spec.regions
    if regions is None or not regions.side:
        return None
    pixels_RSSC = example['regions'][:, : regions.feature_size].reshape(
        -1, regions.side, regions.side, 3
    )
    side_by_side = np.clip((np.hstack(pixels_RSSC) + 1) * 127.5, 0, 255)
    return Image.fromarray(side_by_side.astype(np.uint8))


def _encode_jpeg(image: Image.Image, side: int = 0) -> str:
    """An image as a JPEG in a data URI.

    Args:
      image: The image, which is scaled down in place.
      side: Largest side in pixels; 0 for the size as it is.
    """
    if side:
        image.thumbnail((side, side))
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=90)
    return f'data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}'


def _make_table(source: SourceContents) -> Table:
    """The counts by language and kind, first of the languages that the stream draws."""
    table = Table()
    table.add_column('language')
    kinds = source.kinds if 1 < len(source.kinds) <= 4 else []
    for column in ('records', *kinds, 'texts', 'drawn'):
        table.add_column(column, justify='right')
    for row in sorted(source.languages, key=lambda row: not row.share)[:PRINTED]:
        counts = [f'{row.texts[kind]:,}' for kind in kinds]
        drawn = format_percent(row.share) if row.share else ''
        table.add_row(row.language, f'{row.records:,}', *counts, f'{row.all_texts:,}', drawn)
    hidden = len(source.languages) - PRINTED
    if hidden > 0:
        table.caption = f'{hidden} more languages are on the page'
    return table
