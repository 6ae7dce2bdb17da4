"""Writes a page with the images and texts that training data shares with test sets."""

import base64
import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import tensorflow as tf
from PIL import Image

from mural_jax.data.sets import checks, schema
from mural_jax.data.sets.records import Records, open_split

SHOWN = 60  # Leaked images, and leaked texts, of each test set on the page.
SIDE = 128  # Largest side of an image on the page, in pixels.


def write_page(selections: Mapping[str, Any], data_dir: Path, path: Path) -> Path:
    """Writes the page.

    Args:
      selections: What `filters.ensure_selection` returned, by source.
      data_dir: Folder of all data sets.
      path: Path of the page.

    Returns:
      `path`.
    """
    sections = [
        _describe_leaks(place, about, test, data_dir)
        for place, about in selections.items()
        for test in about['filters']['exclude']
    ]
    page = Path(__file__).with_name('decontamination.html').read_text(encoding='utf-8')
    environment = jinja2.Environment(autoescape=True)
    html = environment.from_string(page).render(sections=sections, shown=SHOWN)
    # Renaming is atomic, so a reader never sees half a page.
    part = path.with_suffix('.part')
    part.write_text(html, encoding='utf-8')
    part.replace(path)
    return path


def _describe_leaks(
    place: str, about: Mapping[str, Any], test: str, data_dir: Path
) -> dict[str, Any]:
    leaks = [leak for leak in about['leaks'] if leak['test'] == test]
    train, tested = open_split(about['of'], data_dir), open_split(test, data_dir)
    images = [leak for leak in leaks if leak['what'] == 'picture']
    texts = [leak for leak in leaks if leak['what'] == 'text']
    return {
        'place': place,
        'of': about['of'],
        'test': test,
        'num_test': len(tested),
        'num_images': len({leak['index'] for leak in images}),
        'num_texts': len(texts),
        'num_tested': len({leak['in test'] for leak in images}),
        'distances': sorted(Counter(leak['distance'] for leak in images).items()),
        'images': [
            {
                'distance': leak['distance'],
                'ours': _read_image(train, leak['index']),
                'theirs': _read_image(tested, leak['in test']),
            }
            # The least similar pairs show best whether `exclude_distance` is too large.
            for leak in sorted(images, key=lambda leak: -leak['distance'])[:SHOWN]
        ],
        'texts': [_read_text(train, leak) for leak in texts[:SHOWN]],
    }


def _read_image(records: Records, index: int) -> dict[str, str]:
    parsed = schema.parse_examples(
        tf.constant(list(records.read(np.array([index])))), 'id', 'image'
    )
    image = Image.fromarray(checks.decode_image(parsed['image'].numpy()[0]))
    image.thumbnail((SIDE, SIDE))
    stream = io.BytesIO()
    image.save(stream, 'JPEG', quality=85)
    data = base64.b64encode(stream.getvalue()).decode()
    return {'id': parsed['id'].numpy()[0].decode(), 'data': data}


def _read_text(records: Records, leak: Mapping[str, Any]) -> dict[str, str]:
    serialized = tf.constant(list(records.read(np.array([leak['index']]))))
    parsed = schema.parse_examples(serialized, 'id', 'text', 'language')
    number = leak['number']
    return {
        'id': parsed['id'].numpy()[0].decode(),
        'language': records.languages[int(parsed['language'][0][number])],
        'text': parsed['text'][0][number].numpy().decode(),
    }
