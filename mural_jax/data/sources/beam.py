"""All examples of a split by Apache Beam, on many machines; `join.local` gives the same."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from mural_jax.data.sources import join
from mural_jax.data.sources.reader import JoinedReader, Reader
from mural_jax.types import UserError

LOCAL_RUNNER = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
Place = tuple[int, int]  # (part, place in it): the first picture of a key is taken


def read_split(reader: Reader, split: str) -> Any:
    """A PTransform from a pipeline to a PCollection of the examples of a split.

    An example without picture is bad; pictures without rows are dropped and counted by the Beam
    counter mural/pictures_without_rows.
    """
    beam = _import_beam()
    joined = isinstance(reader, JoinedReader) and bool(reader.image_parts())

    # Its name is the name of the step.
    def read_examples(begin: Any) -> Any:
        if isinstance(reader, JoinedReader) and joined:
            return _join_rows_and_images(reader, split, begin)
        return begin | 'Examples' >> _read_all_parts(join.read_part, reader, split, Any)

    return beam.ptransform_fn(read_examples)()


def make_options(flags: Sequence[str]) -> Any:
    """Beam's PipelineOptions of its own flags.

    Without --runner it runs here, as DirectRunner does, but without its first trying to download
    another runner (Beam 2.77 does).
    """
    _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions([f'--runner={LOCAL_RUNNER}', *flags])


def _join_rows_and_images(reader: JoinedReader, split: str, begin: Any) -> Any:
    beam = _import_beam()
    pair = tuple[bytes, Any]
    rows = begin | 'Rows' >> _read_all_parts(_read_keyed_rows, reader, split, pair)
    good = rows | 'Good' >> beam.Filter(_is_good)
    bad = rows | 'Bad' >> beam.FlatMap(_select_bad).with_output_types(Any)
    numbered = list(enumerate(reader.image_parts()))
    pictures = (
        begin
        | 'PictureParts' >> beam.Create(numbered)
        | 'SpreadPictures' >> beam.Reshuffle()
        | 'Pictures' >> beam.FlatMap(_read_images, reader).with_output_types(pair)
    )
    found = (
        {'rows': good, 'pictures': pictures}
        | 'Join' >> beam.CoGroupByKey()
        | 'Merge' >> beam.FlatMap(_merge_group, reader).with_output_types(Any)
    )
    return (found, bad) | 'All' >> beam.Flatten()


def _read_all_parts(read: Any, reader: Reader, split: str, kind: Any) -> Any:
    """What `read(reader, split, part)` gives of all parts of a split, of a Beam type."""
    beam = _import_beam()
    parts = list(reader.splits()[split])
    # The type is said everywhere: Beam's own coder of dataclasses cannot write surrogate escapes.
    each = 'Read' >> beam.FlatMap(functools.partial(read, reader, split)).with_output_types(kind)
    return beam.Create(parts) | beam.Reshuffle() | each


def _read_keyed_rows(reader: JoinedReader, split: str, part: str) -> Iterator[tuple[bytes, Any]]:
    for key, example in reader.read_rows(split, part):
        yield _encode_key(key), example


def _encode_key(key: str) -> bytes:
    """A key as bytes: Beam cannot write surrogate escapes in strings, either."""
    return key.encode('utf-8', 'surrogatepass')


def _is_good(row: Any) -> bool:
    return not row[1].bad


def _select_bad(row: Any) -> Iterator[Any]:
    if row[1].bad:
        yield row[1]


def _read_images(numbered: Any, reader: JoinedReader) -> Iterator[tuple[bytes, Any]]:
    number, part = numbered
    for place, (key, image) in enumerate(reader.read_images(part, None)):
        if image:
            yield _encode_key(key), ((number, place), image)


def _merge_group(group: Any, reader: JoinedReader) -> Iterator[Any]:
    rows = list(group[1]['rows'])
    first: tuple[Place, bytes] = min(group[1]['pictures'], default=((0, 0), b''))
    if rows:
        yield join.make_example(reader, rows, first[1])
    else:
        _import_beam().metrics.Metrics.counter('mural', 'pictures_without_rows').inc()


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            'Apache Beam is not installed; it joins data larger than memory. '
            "Install it: pip install 'mural-jax[beam]'."
        ) from error
    return apache_beam
