"""Reads all examples of a split with Apache Beam, on many machines.

It gives the same examples as `join.read_split`.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

from mural_jax.data.sources import join
from mural_jax.data.sources.reader import JoinedReader, Reader
from mural_jax.types import UserError

LOCAL_RUNNER = 'apache_beam.runners.portability.fn_api_runner.FnApiRunner'
Place = tuple[int, int]  # (part, place in the part); the first image of a key is used.


def read_split(reader: Reader, split: str) -> Any:
    """A PTransform from a pipeline to a PCollection of the examples of a split.

    An example without an image is bad. An image without rows is dropped and counted by the Beam
    counter mural/images_without_rows.

    Raises:
      UserError: Apache Beam is not installed.
    """
    beam = _import_beam()
    joined = isinstance(reader, JoinedReader) and bool(reader.image_parts())

    # Beam names the step after this function.
    def read_examples(begin: Any) -> Any:
        if isinstance(reader, JoinedReader) and joined:
            return _join_rows_and_images(reader, split, begin)
        return begin | 'Examples' >> _read_all_parts(join.read_part, reader, split, Any)

    return beam.ptransform_fn(read_examples)()


def make_options(flags: Sequence[str]) -> Any:
    """PipelineOptions made from Beam's own flags.

    Without --runner the pipeline runs on this machine. This is what DirectRunner does too, but
    DirectRunner first tries to download another runner (Beam 2.77).
    """
    _import_beam()
    from apache_beam.options.pipeline_options import PipelineOptions

    # A later --runner among the flags overrides the first one.
    return PipelineOptions([f'--runner={LOCAL_RUNNER}', *flags])


def _join_rows_and_images(reader: JoinedReader, split: str, begin: Any) -> Any:
    beam = _import_beam()
    pair = tuple[bytes, Any]
    rows = begin | 'Rows' >> _read_all_parts(_read_keyed_rows, reader, split, pair)
    good = rows | 'Good' >> beam.Filter(_is_good)
    bad = rows | 'Bad' >> beam.FlatMap(_select_bad).with_output_types(Any)
    numbered = list(enumerate(reader.image_parts()))
    images = (
        begin
        | 'ImageParts' >> beam.Create(numbered)
        # Without a reshuffle one worker would read all parts.
        | 'SpreadImages' >> beam.Reshuffle()
        | 'Images' >> beam.FlatMap(_read_images, reader).with_output_types(pair)
    )
    merged = (
        {'rows': good, 'images': images}
        | 'Join' >> beam.CoGroupByKey()
        | 'Merge' >> beam.FlatMap(_merge_group, reader).with_output_types(Any)
    )
    return (merged, bad) | 'All' >> beam.Flatten()


def _read_all_parts(read: Any, reader: Reader, split: str, kind: Any) -> Any:
    """A PTransform that applies `read(reader, split, part)` to all parts of a split.

    Args:
      kind: The Beam type of what `read` yields.
    """
    beam = _import_beam()
    parts = list(reader.splits()[split])
    # Every step declares its type: Beam's own coder of dataclasses cannot write surrogate escapes.
    each = 'Read' >> beam.FlatMap(functools.partial(read, reader, split)).with_output_types(kind)
    return beam.Create(parts) | beam.Reshuffle() | each


def _read_keyed_rows(reader: JoinedReader, split: str, part: str) -> Iterator[tuple[bytes, Any]]:
    for key, example in reader.read_rows(split, part):
        yield _encode_key(key), example


def _encode_key(key: str) -> bytes:
    # Bytes, because Beam cannot write surrogate escapes in strings either.
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
    # The image that `join` would meet first, so that both give the same example.
    first: tuple[Place, bytes] = min(group[1]['images'], default=((0, 0), b''))
    if rows:
        yield join.make_example(reader, rows, first[1])
    else:
        _import_beam().metrics.Metrics.counter('mural', 'images_without_rows').inc()


def _import_beam() -> Any:
    try:
        import apache_beam
    except ImportError as error:
        raise UserError(
            'Apache Beam is not installed; it joins data larger than memory. '
            "Install it: pip install 'mural-jax[beam]'."
        ) from error
    return apache_beam
