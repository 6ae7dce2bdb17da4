"""Measures search of 100,000 images: embedding them, serving them, and every way of finding.

    python benchmarks/search.py --model=MODEL --images=TABLE --image_column=jpeg --out=DIR

MODEL is a folder of `mural export --format=safetensors`, TABLE a Parquet file of images. The
benchmark cuts them at random places until there are enough crops. `mural index` embeds the crops;
it is killed once on its way, and run again. `mural serve` answers 50 clients at once for a minute.
Then single queries are timed in every way of `mural search`, and in faiss's IndexFlatIP if faiss is
installed: on that index, and on random vectors of 512 dimensions.
"""

import argparse
import dataclasses
import http.client
import io
import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import parquet

from mural_jax.search.finder import Finder, write_faiss
from mural_jax.search.store import PART_ROWS, ImageIndex, list_parts

CLIENTS, SECONDS = 50, 60  # Clients that ask at once, and for how long.
QUERIES = ['a red flower', 'красное яблоко', 'قطة سوداء', '赤い車', 'पीला फूल']
# Images to find; rounds; queries of each way in one round. The ways take turns, so that a slower
# minute of the machine slows all of them.
K, ROUNDS, TURN = 10, 20, 50

Find = Callable[[np.ndarray], list[int]]  # One query [1, D] -> the rows of the K nearest images.


def main() -> None:
    """Runs all measurements and prints them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', type=Path, required=True)
    parser.add_argument('--images', type=Path, required=True)
    parser.add_argument('--image_column', default='image')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--count', type=int, default=100_000)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table, folder = arguments.out / 'images.parquet', arguments.out / 'index'
    if not table.exists():
        cut_images(arguments.images, arguments.image_column, table, arguments.count)
    shutil.rmtree(folder, ignore_errors=True)
    measure_embedding(arguments.model, table, folder, arguments.count)
    measure_serving(folder)
    index = ImageIndex(folder)
    rng = np.random.default_rng(0)
    print(f'{len(index.rows):,} images, {index.description.dim} dimensions')
    measure_finding(index, make_queries(index.image_ND, rng))
    index.image_ND = unit(rng.normal(size=(len(index.rows), 512)).astype(np.float32))
    index.description = dataclasses.replace(index.description, dim=512)
    print('random vectors, 512 dimensions')
    measure_finding(index, make_queries(index.image_ND, rng))


def cut_images(images: Path, column: str, out: Path, count: int) -> None:
    """Writes a table of `count` random crops as JPEG."""
    encoded = parquet.read_table(images, columns=[column])[column].to_pylist()
    rng = np.random.default_rng(0)
    schema = pa.schema([('id', pa.string()), ('image', pa.binary())])
    with parquet.ParquetWriter(out.with_suffix('.part'), schema) as writer:
        for first in range(0, count, 1000):
            numbers = range(first, min(first + 1000, count))
            crops = [_crop_image(encoded[number % len(encoded)], rng) for number in numbers]
            ids = [str(number) for number in numbers]
            writer.write_table(pa.table({'id': ids, 'image': crops}, schema=schema))
    out.with_suffix('.part').rename(out)


def _crop_image(encoded: bytes, rng: np.random.Generator) -> bytes:
    image = Image.open(io.BytesIO(encoded)).convert('RGB')
    side = int(min(image.size) * rng.uniform(0.6, 1))
    left, top = (int(rng.integers(0, room - side + 1)) for room in image.size)
    file = io.BytesIO()
    image.crop((left, top, left + side, top + side)).save(file, 'JPEG', quality=90)
    return file.getvalue()


def measure_embedding(model: Path, table: Path, folder: Path, count: int) -> None:
    """Times `mural index`, which is killed after a third of the images and run again."""
    flags = [f'--model={model}', f'--images={table}', '--id_column=id', f'--out={folder}']
    command = [sys.executable, '-P', '-m', 'mural_jax', 'index', *flags]
    began = time.perf_counter()
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(list_parts(folder)) < count // PART_ROWS // 3:
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(list_parts(folder))
    second, peak = subprocess.Popen(command), 0.0
    while second.poll() is None:
        peak = max(peak, peak_memory_gb(second.pid))
        time.sleep(0.2)
    assert second.returncode == 0
    seconds = time.perf_counter() - began
    print(
        f'killed after {kept} parts; {len(list_parts(folder))} in the end, {seconds:.0f} s in all, '
        f'{count / seconds:,.0f} images a second, {peak:.2f} GB at most'
    )


def measure_serving(folder: Path) -> None:
    """Times `mural serve` for SECONDS: CLIENTS each ask again as soon as they have an answer."""
    command = [sys.executable, '-P', '-m', 'mural_jax', 'serve', f'--index={folder}', '--port=0']
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout
    address = urllib.parse.urlsplit(server.stdout.readline().split()[-1]).netloc
    # The first answer comes once all programs are compiled.
    ask(http.client.HTTPConnection(address, timeout=120), 'first')
    end = time.perf_counter() + SECONDS

    def run_client(number: int) -> tuple[list[float], int]:
        """(seconds of each request, requests without an answer)."""
        connection, times, lost = http.client.HTTPConnection(address, timeout=60), [], 0
        while (began := time.perf_counter()) < end:
            lost += not ask(connection, f'{QUERIES[len(times) % len(QUERIES)]} {number}')
            times.append(time.perf_counter() - began)
        return times, lost

    with ThreadPoolExecutor(CLIENTS) as pool:
        results = [*pool.map(run_client, range(CLIENTS))]
    server.terminate()
    times = np.concatenate([own for own, _ in results])
    p50, p99 = np.percentile(times, [50, 99]) * 1000
    lost = sum(own for _, own in results)
    print(
        f'{CLIENTS} clients, {SECONDS} s: {len(times):,} requests, {lost} lost, '
        f'p50 {p50:.0f} ms, p99 {p99:.0f} ms'
    )


def ask(connection: http.client.HTTPConnection, query: str) -> bool:
    """Whether the server answers with results."""
    try:
        connection.request('GET', f'/search?q={urllib.parse.quote(query)}')
        answer = connection.getresponse()
        return answer.status == 200 and len(json.loads(answer.read())['results']) > 0
    except (OSError, ValueError, http.client.HTTPException):
        connection.close()
        return False


def peak_memory_gb(pid: int) -> float:
    """The most memory that a process has had, in GB; 0 if it is gone."""
    try:
        status = Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith('VmHWM')]
    return int(lines[0].split()[1]) / 2**20 if lines else 0.0


def unit(vector_ND: np.ndarray) -> np.ndarray:
    """Vectors scaled to unit length."""
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def make_queries(image_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Random images with noise: each query has a cosine of about 0.8 with its image."""
    image_QD = image_ND[rng.integers(0, len(image_ND), ROUNDS * TURN)]
    noise_QD = unit(rng.normal(size=image_QD.shape).astype(np.float32))
    return unit(image_QD + 0.75 * noise_QD)


def measure_finding(index: ImageIndex, query_QD: np.ndarray) -> None:
    """Prints the time of single queries in each way, and the share of the K nearest it finds."""
    # The truth is a sort of all scores, in float64.
    score_QN = query_QD.astype(np.float64) @ index.image_ND.astype(np.float64).T
    nearest_QK = np.argpartition(-score_QN, K, axis=1)[:, :K]
    ways = list_ways(index)
    times: dict[str, list[float]] = {name: [] for name in ways}
    correct = dict.fromkeys(ways, 0)
    for find in ways.values():
        find(query_QD[:1])  # Compiles.
    for turn in range(ROUNDS):
        for name, find in ways.items():
            for number in range(turn * TURN, (turn + 1) * TURN):
                began = time.perf_counter()
                found = find(query_QD[number : number + 1])
                times[name].append(time.perf_counter() - began)
                correct[name] += len({*found} & {*nearest_QK[number].tolist()})
    for name in ways:
        p50, p99 = np.percentile(times[name], [50, 99]) * 1000
        share = 100 * correct[name] / len(query_QD) / K
        print(f'| {name} | {p50:.2f} | {p99:.2f} | {share:.2f} |')


def list_ways(index: ImageIndex) -> dict[str, Find]:
    """The ways of finding, by name; those of faiss if it is installed."""

    def use(finder: Finder) -> Find:
        return lambda query_1D: [hit.number for hit in finder(query_1D, K)[0]]

    ways = {how: use(Finder(index, how)) for how in ('exact', 'binary')}
    try:
        import faiss
    except ImportError:
        return ways
    flat = faiss.IndexFlatIP(index.description.dim)
    flat.add(index.image_ND)
    ways['IndexFlatIP of faiss'] = lambda query_1D: flat.search(query_1D, K)[1][0].tolist()
    began = time.perf_counter()
    write_faiss(index.folder, index.image_ND, 'HNSW32')
    print(f'HNSW32 was made in {time.perf_counter() - began:.0f} s')
    return ways | {'faiss, HNSW32': use(Finder(index, 'faiss'))}


if __name__ == '__main__':
    main()
