"""Images per second as training crops of 224 pixels: our stream, bare decoding, open_clip's loader.

    python benchmarks/data_throughput.py --photos=ARCHIVE.tar [--seconds=8] [--rounds=5]

The photos are first resized to 500 x 375 (JPEG, quality 90) in a temporary folder, so any photos
will do. Every loader takes a random part of 50 to 100% of the area, resizes it to 224 x 224, and
has two workers. The loaders take turns, so that all of them meet the same load of the machine.

`limit` is `tf.io.decode_and_crop_jpeg` and `tf.image.resize` in a map over bytes in memory, without
texts. The loader of open_clip is the one that its trainer builds: WebDataset shards, PIL decoding,
its training transform, its tokenizer, a DataLoader; it needs open_clip_torch and webdataset.
"""

import argparse
import csv
import io
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, AREA, BATCH = 224, 0.5, 64
PHOTO = (500, 375)
WARM_UP = 8  # uncounted batches, while workers start and buffers fill


def resize_photos(archive: str, count: int, folder: Path) -> list[Path]:
    """Writes the first photos of an archive as JPEG files of 500 x 375; returns their paths."""
    photos = []
    with tarfile.open(archive) as tar:
        members = [member for member in tar.getmembers() if member.isfile()]
        for member in members[:count]:
            file = tar.extractfile(member)
            image = Image.open(io.BytesIO(file.read())).convert('RGB')
            path = folder / f'{len(photos):06d}.jpg'
            image.resize(PHOTO, Image.Resampling.LANCZOS).save(path, quality=90)
            photos.append(path)
    return photos


def write_caption(number: int) -> str:
    """A caption of eleven words."""
    return f'a photo number {number} of somebody who does something out there'


def read_ours(photos: list[Path], folder: Path) -> Iterator[int]:
    """Yields the sizes of batches of a captions stream over an ingested data set."""
    from mural_jax.data.fields.image_settings import Augment
    from mural_jax.data.ingest.ingest import ingest
    from mural_jax.data.reading.stream import open_stream
    from mural_jax.data.sets.checks import RecordLimits
    from mural_jax.data.sources.captions import CaptionTable
    from mural_jax.data.streams.base import StreamSource
    from mural_jax.data.streams.captions import Captions
    from mural_jax.data.tokenizer import Vocabulary, train_vocabulary

    table = folder / 'captions.tsv'
    with table.open('w', newline='') as file:
        writer = csv.writer(file, delimiter='\t')
        rows = ((path.name, write_caption(number)) for number, path in enumerate(photos))
        writer.writerows([('image', 'caption'), *rows])
    reader = CaptionTable(table=str(table), images=(str(photos[0].parent),), language='en')
    dataset = ingest(reader, 'photos', folder / 'data', RecordLimits(), max_bad=0.0)
    texts = [write_caption(number) for number in range(2000)]
    spec = Captions(
        sources={'photos': StreamSource(dataset)},
        languages=('en',),
        batch_size=BATCH,
        max_length=77,
        image_size=SIZE,
        area=AREA,
        augment=Augment(mirror=0.5),
    )
    tokenizer = train_vocabulary(texts, Vocabulary(vocab_size=8000))
    stream = open_stream(spec, folder / 'data', tokenizer, seed=0)
    for batch in stream.batches(0, 10**6):
        yield len(batch['image'])


def read_bare(photos: list[Path], fancy: bool) -> Iterator[int]:
    """Yields the sizes of batches that are only decoded, cropped and resized.

    fancy: Whether the decoder interpolates the colour channels, which JPEG stores smaller.
    """
    import tensorflow as tf

    from mural_jax.data.fields import images

    encoded = tf.constant([path.read_bytes() for path in photos])
    side_B2 = tf.constant([PHOTO[::-1]] * len(photos))
    random_B4 = tf.constant(np.random.default_rng(0).random((len(photos), 4), np.float32))

    def crop(encoded: tf.Tensor, window_4: tf.Tensor) -> tf.Tensor:
        part_HWC = tf.io.decode_and_crop_jpeg(encoded, window_4, channels=3, fancy_upscaling=fancy)
        return tf.cast(tf.image.resize(part_HWC, [SIZE, SIZE]) + 0.5, tf.uint8)

    dataset = tf.data.Dataset.from_tensor_slices(
        (encoded, images.draw_windows(side_B2, AREA, random_B4))
    )
    dataset = dataset.repeat().map(crop, num_parallel_calls=2, deterministic=False)
    for batch in dataset.batch(BATCH).prefetch(4):
        yield len(batch)


def read_open_clip(photos: list[Path], folder: Path) -> Iterator[int]:
    """Yields the sizes of batches of open_clip's loader."""
    import torch

    # The CUDA build of torchvision does not find its operators beside the CPU build of PyTorch.
    # None of them is called; their definitions are enough to import it.
    operators = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        operators.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    import open_clip as library
    import webdataset as wds
    from open_clip.transform import AugmentationCfg, image_transform

    shards = [str(folder / f'{shard}.tar') for shard in range(4)]
    for shard, path in enumerate(shards):
        with wds.TarWriter(path) as writer:
            for number in range(shard, len(photos), len(shards)):
                jpg = photos[number].read_bytes()
                writer.write({'__key__': f'{number:06d}', 'jpg': jpg, 'txt': write_caption(number)})
    transform = image_transform(SIZE, is_train=True, aug_cfg=AugmentationCfg(scale=(AREA, 1.0)))
    tokenizer = library.get_tokenizer('ViT-B-32')
    dataset = wds.DataPipeline(
        wds.ResampledShards(shards),
        wds.tarfile_to_samples(),
        wds.shuffle(200),
        wds.decode('pilrgb'),
        wds.rename(image='jpg', text='txt'),
        wds.map_dict(image=transform, text=lambda text: tokenizer(text)[0]),
        wds.to_tuple('image', 'text'),
        wds.batched(BATCH, partial=False),
    )
    loader = wds.WebLoader(dataset, batch_size=None, shuffle=False, num_workers=2)
    for image, _ in loader:
        yield len(image)


def measure_rate(batches: Iterator[int], seconds: float) -> float:
    """Images per second."""
    for _ in range(WARM_UP):
        next(batches)
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        count += next(batches)
    return count / spent


def main() -> None:
    """Measures all loaders in turns and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--photos', required=True, help='A tar archive of photos.')
    parser.add_argument('--count', type=int, default=1000, help='Number of photos to use.')
    parser.add_argument('--seconds', type=float, default=8.0)
    parser.add_argument('--rounds', type=int, default=5)
    arguments = parser.parse_args()
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / 'photos').mkdir()
        photos = resize_photos(arguments.photos, arguments.count, folder / 'photos')
        loaders: dict[str, Callable[[], Iterator[int]]] = {
            'mural_jax': lambda: read_ours(photos, folder),
            'limit': lambda: read_bare(photos, fancy=True),
            'limit, colours not interpolated, as in our stream': lambda: read_bare(
                photos, fancy=False
            ),
            'open_clip': lambda: read_open_clip(photos, folder),
        }
        try:
            next(loaders['open_clip']())
        except ImportError as error:
            print(f'open_clip is skipped: {error}')
            del loaders['open_clip']
        rates: dict[str, list[float]] = {name: [] for name in loaders}
        for _ in range(arguments.rounds):
            for name, batches in loaders.items():
                # A new generator for each turn, closed before the next loader runs.
                running = batches()
                rates[name].append(measure_rate(running, arguments.seconds))
                running.close()
    print('| | images per second, median (from, to) | mural_jax / it |')
    print('| --- | ---: | ---: |')
    for name, values in rates.items():
        ratio = statistics.median(a / b for a, b in zip(rates['mural_jax'], values))
        print(
            f'| {name} | {statistics.median(values):,.0f} ({min(values):,.0f}, '
            f'{max(values):,.0f}) | {ratio:.2f} |'
        )


if __name__ == '__main__':
    main()
