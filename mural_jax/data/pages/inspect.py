"""A page about the streams of a config: what they hold, draw and give to the model."""

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

SHEET = 24  # pictures of the contact sheet
CAPTIONS = 5  # texts under one of them
SIDE = 200  # pixels of one of them, at most
BATCHES, SHOWN = 2, 16  # batches, and examples shown of each
SAMPLED = 2000  # texts whose tokens are counted
PRINTED = 40  # languages in the terminal
CHUNK = 100  # examples read at a time
HIDDEN = '[MASK]'
# Of a record that cannot be read; training replaces it.
BROKEN = (tf.errors.OpError, ValueError, OSError, RuntimeError)


def write_page(
    streams: Mapping[str, Stream], data_dir: Path, tokenizer: Tokenizer, seed: int, out: Path
) -> Path:
    """Writes the page, prints the counts of texts, and gives the page's path.

    `seed` is the run's: the batches are those that its training begins with. Raises UserError
    where data is not prepared.
    """
    sections = []
    for number, (name, spec) in enumerate(streams.items()):
        # The model's own batches, fewer examples of each: an example depends on its position alone.
        few = dataclasses.replace(spec, batch_size=min(SHOWN, spec.batch_size))
        # As in training, where streams differ in their order.
        stream = open_stream(
            few, data_dir, tokenizer, seed * 1009 + number, load_fitted(spec, data_dir)
        )
        sections.append(_describe_stream(name, spec, stream, data_dir, tokenizer))
    console = Console()
    for section in sections:
        for held in section['contents']:
            words = f'{held.of}, {held.records:,} records, {held.bad:,} bad'
            console.print(f'\n{section["name"]}: {words}', highlight=False)
            console.print(_make_table(held))
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
    """A share in percent, with more digits where it is small."""
    return f'{100 * share:.2g}%' if 0 < share < 0.01 else f'{100 * share:.1f}%'


def _describe_stream(
    name: str, spec: Stream, stream: OpenStream, data_dir: Path, tokenizer: Tokenizer
) -> dict[str, Any]:
    held = contents.describe_sources(spec, stream.pool)
    lengths = np.array(_count_tokens(stream, tokenizer))
    drawn = [histograms.draw_token_histogram(lengths, spec.max_length)] if len(lengths) else []
    if spec.images:
        drawn += histograms.draw_image_histograms(stream.pool.records, spec.images.size)
    return {
        'name': name,
        'kind': type(spec).__name__.lower(),
        'contents': held,
        'settings': _list_settings(spec),
        'lost': contents.describe_drops(spec, data_dir),
        'histograms': drawn,
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
    """What the config says of a stream, where it is more than the default."""
    said = {}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name in ('sources', 'languages') or value == field.default or not value:
            continue
        said[field.name] = _format_setting(value)
    return said


def _format_setting(value: Any) -> str:
    """A setting in words."""
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
    """Tokens, with marks, of the first texts that the stream draws, before they are cut."""
    lengths: list[int] = []
    for start in range(0, SAMPLED // stream.settings.num_texts, CHUNK):
        try:
            texts = stream.read_texts(np.arange(start, start + CHUNK))
        except BROKEN:
            continue
        lengths += [len(ids) for side in texts for ids in tokenizer.encode(side, 2**16)]
    return lengths[:SAMPLED]


def _sample_records(stream: OpenStream) -> Iterator[dict[str, Any]]:
    """Pictures as they are stored, as the order of the stream has them, with some texts of each."""
    pool = stream.pool
    member_B = stream.members_at(np.arange(10 * SHEET))
    found = np.stack([pool.source_G[member_B], pool.record_G[member_B]], axis=1)
    _, first = np.unique(found, axis=0, return_index=True)
    for number, place in enumerate(np.sort(first)[:SHEET]):
        member = member_B[place]
        records = pool.records[pool.source_G[member]]
        try:
            names = ('id', 'image', 'language', 'kind', 'text')
            parsed = schema.parse_examples(tf.constant(pool.read(np.array([member]))), *names)
            picture = Image.fromarray(checks.decode_image(parsed['image'].numpy()[0]))
        except BROKEN as error:
            yield {'id': str(pool.locate(int(member))), 'bad': str(error)[:100], 'texts': []}
            continue
        texts: dict[str, str] = {}
        for language, text in zip(*(parsed[key][0].numpy() for key in ('language', 'text'))):
            texts.setdefault(records.languages[language], text.decode(errors='replace'))
        drawn = [language for language in pool.languages if language in texts]
        turn = number * CAPTIONS % max(len(drawn), 1)  # So that all languages have their turn.
        yield {
            'id': parsed['id'].numpy()[0].decode(),
            'bad': '',
            'size': f'{picture.width}×{picture.height}',
            'picture': _encode_jpeg(picture, SIDE),
            'texts': [(x, texts[x]) for x in (drawn[turn:] + drawn[:turn])[:CAPTIONS]],
            'more': max(len(drawn) - CAPTIONS, 0),
        }


def _read_batch(
    stream: OpenStream, tokenizer: Tokenizer, position: int
) -> Iterator[dict[str, Any]]:
    """The first examples of a batch: pictures, tokens and the texts they stand for, ids, origin."""
    batch = next(iter(stream.batches(position, 1)))
    fields = stream.settings.fields()
    names = [name for name, field in fields.items() if field.role in ('text', 'tags')]
    pivots = stream.settings.pivots or ()
    # The other text of a pair is in a language that is known only where there is one.
    pivot = pivots[0] if len(pivots) == 1 else ''
    for row in range(stream.batch_size):
        origin = stream.labels[batch['origin'][row]]
        language = origin.rpartition('/')[2]
        texts = []
        for name in names:
            ids = [int(i) for i in batch[name][row] if i != tokenizer.pad_id]
            said = pivot if name == 'target' else language
            # What hides a word is no token of the vocabulary.
            shown = [HIDDEN if i == tokenizer.vocab_size else tokenizer.decode([i]) for i in ids]
            whole = ' '.join(shown) if HIDDEN in shown else tokenizer.decode(ids)
            texts.append({'language': said, 'text': whole, 'tokens': ids})
        picture = _batch_image(stream.settings, {name: value[row] for name, value in batch.items()})
        yield {
            'origin': origin,
            'ids': batch['ids'][row].tolist(),
            'texts': texts,
            'picture': _encode_jpeg(picture) if picture else '',
        }


def _batch_image(spec: Stream, example: Mapping[str, Any]) -> Image.Image | None:
    """The picture of an example; of regions that are pixels, one beside the other."""
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


def _encode_jpeg(picture: Image.Image, side: int = 0) -> str:
    """A picture, no larger than a square of `side` pixels, as a data URI."""
    if side:
        picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, 'JPEG', quality=90)
    return f'data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}'


def _make_table(held: SourceContents) -> Table:
    """Counts by language and kind, languages that are drawn first."""
    table = Table()
    table.add_column('language')
    kinds = held.kinds if 1 < len(held.kinds) <= 4 else []
    for column in ('records', *kinds, 'texts', 'drawn'):
        table.add_column(column, justify='right')
    for row in sorted(held.languages, key=lambda row: not row.share)[:PRINTED]:
        of_kinds = [f'{row.texts[kind]:,}' for kind in kinds]
        drawn = format_percent(row.share) if row.share else ''
        table.add_row(row.language, f'{row.records:,}', *of_kinds, f'{row.all_texts:,}', drawn)
    left = len(held.languages) - PRINTED
    if left > 0:
        table.caption = f'{left} more languages are on the page'
    return table
