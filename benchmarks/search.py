"""Search of 100,000 pictures: an index that is killed and goes on, and how long a query takes.

    python benchmarks/search.py --model=MODEL --pictures=TABLE --image_column=jpeg --out=DIR

MODEL is a folder of `mural export --format=safetensors`, TABLE a Parquet file of pictures. They
are cut at random places until there are enough, and `mural index` embeds them, killed once on its
way. `mural serve` answers 50 clients at once for a minute. Then single queries by every way of
`mural search`, in turns with faiss's IndexFlatIP where faiss is installed: on that index, and on
random vectors of 512 numbers.
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
from mural_jax.search.store import Gallery, parts

CLIENTS, SECONDS = 50, 60  # at once; of asking
WORDS = ['a red flower', 'красное яблоко', 'قطة سوداء', '赤い車', 'पीला फूल']
K, ROUNDS, TURN = 10, 20, 50  # found; rounds, and queries of each way in one


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--model', type=Path, required=True)
    parser.add_argument('--pictures', type=Path, required=True)
    parser.add_argument('--image_column', default='image')
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--count', type=int, default=100_000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    table, index = given.out / 'pictures.parquet', given.out / 'index'
    if not table.exists():
        cut(given.pictures, given.image_column, table, given.count)
    shutil.rmtree(index, ignore_errors=True)
    embed(given.model, table, index, given.count)
    load(index)
    gallery = Gallery(index)
    rng = np.random.default_rng(0)
    print(f'{len(gallery.rows):,} pictures, {gallery.about.dim} dimensions')
    compare(gallery, near(gallery.image_ND, rng))
    gallery.image_ND = unit(rng.normal(size=(len(gallery.rows), 512)).astype(np.float32))
    gallery.about = dataclasses.replace(gallery.about, dim=512)
    print('random vectors, 512 dimensions')
    compare(gallery, near(gallery.image_ND, rng))


def cut(pictures: Path, column: str, out: Path, count: int) -> None:
    """So many parts of pictures, JPEG, by chunks."""
    encoded = parquet.read_table(pictures, columns=[column])[column].to_pylist()
    rng = np.random.default_rng(0)
    schema = pa.schema([('id', pa.string()), ('image', pa.binary())])
    with parquet.ParquetWriter(out.with_suffix('.part'), schema) as writer:
        for first in range(0, count, 1000):
            numbers = range(first, min(first + 1000, count))
            made = [_part(encoded[i % len(encoded)], rng) for i in numbers]
            writer.write_table(
                pa.table({'id': [str(i) for i in numbers], 'image': made}, schema=schema)
            )
    out.with_suffix('.part').rename(out)


def _part(encoded: bytes, rng: np.random.Generator) -> bytes:
    image = Image.open(io.BytesIO(encoded)).convert('RGB')
    side = int(min(image.size) * rng.uniform(0.6, 1))
    left, top = (int(rng.integers(0, room - side + 1)) for room in image.size)
    file = io.BytesIO()
    image.crop((left, top, left + side, top + side)).save(file, 'JPEG', quality=90)
    return file.getvalue()


def embed(model: Path, table: Path, index: Path, count: int) -> None:
    """Runs `mural index`, kills it where a third is done, and runs it again."""
    command = [
        sys.executable, '-P', '-m', 'mural_jax', 'index', f'--model={model}', f'--images={table}',
        '--id_column=id', f'--out={index}',
    ]  # fmt: skip
    began = time.perf_counter()
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while len(parts(index)) < count // 1024 // 3:
        assert first.poll() is None
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = len(parts(index))
    second, peak = subprocess.Popen(command), 0.0
    while second.poll() is None:
        peak = max(peak, memory_gb(second.pid))
        time.sleep(0.2)
    assert second.returncode == 0
    seconds = time.perf_counter() - began
    print(f'killed after {kept} parts; {len(parts(index))} in the end, {seconds:.0f} s in all, '
          f'{count / seconds:,.0f} pictures a second, {peak:.2f} GB at most')  # fmt: skip


def load(index: Path) -> None:
    """CLIENTS ask `mural serve` for SECONDS, each the next one when it has its answer."""
    command = [sys.executable, '-P', '-m', 'mural_jax', 'serve', f'--index={index}', '--port=0']
    served = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert served.stdout
    address = urllib.parse.urlsplit(served.stdout.readline().split()[-1]).netloc
    ask(http.client.HTTPConnection(address, timeout=120), 'first')  # waits until all is compiled
    end = time.perf_counter() + SECONDS

    def client(number: int) -> tuple[list[float], int]:
        connection, taken, lost = http.client.HTTPConnection(address, timeout=60), [], 0
        while (began := time.perf_counter()) < end:
            lost += not ask(connection, f'{WORDS[len(taken) % len(WORDS)]} {number}')
            taken.append(time.perf_counter() - began)
        return taken, lost

    with ThreadPoolExecutor(CLIENTS) as pool:
        found = [*pool.map(client, range(CLIENTS))]
    served.terminate()
    taken = np.concatenate([times for times, _ in found])
    p50, p99 = np.percentile(taken, [50, 99]) * 1000
    lost = sum(own for _, own in found)
    print(f'{CLIENTS} clients, {SECONDS} s: {len(taken):,} requests, {lost} lost, '
          f'p50 {p50:.0f} ms, p99 {p99:.0f} ms')  # fmt: skip


def ask(connection: http.client.HTTPConnection, words: str) -> bool:
    """Whether there is an answer with results."""
    try:
        connection.request('GET', f'/search?q={urllib.parse.quote(words)}')
        answer = connection.getresponse()
        return answer.status == 200 and len(json.loads(answer.read())['results']) > 0
    except (OSError, ValueError, http.client.HTTPException):
        connection.close()
        return False


def memory_gb(pid: int) -> float:
    """What a process had in memory at most."""
    try:
        status = Path(f'/proc/{pid}/status').read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith('VmHWM')]
    return int(lines[0].split()[1]) / 2**20 if lines else 0.0


def unit(vector_ND: np.ndarray) -> np.ndarray:
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def near(image_ND: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Queries that are a little off pictures: their cosine with them is 0.8 or so."""
    chosen_QD = image_ND[rng.integers(0, len(image_ND), ROUNDS * TURN)]
    noise_QD = unit(rng.normal(size=chosen_QD.shape).astype(np.float32))
    return unit(chosen_QD + 0.75 * noise_QD)


def compare(gallery: Gallery, query_QD: np.ndarray) -> None:
    """Prints what single queries take by each way, and how many of the K nearest it finds."""
    score_QN = query_QD.astype(np.float64) @ gallery.image_ND.astype(np.float64).T
    wanted_QK = np.argpartition(-score_QN, K, axis=1)[:, :K]
    ways = ways_of(gallery)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    hits = dict.fromkeys(ways, 0)
    for way in ways.values():
        way(query_QD[:1])
    for turn in range(ROUNDS):
        for name, way in ways.items():
            for number in range(turn * TURN, (turn + 1) * TURN):
                began = time.perf_counter()
                found = way(query_QD[number : number + 1])
                taken[name].append(time.perf_counter() - began)
                hits[name] += len({*found} & {*wanted_QK[number].tolist()})
    for name in ways:
        p50, p99 = np.percentile(taken[name], [50, 99]) * 1000
        share = 100 * hits[name] / len(query_QD) / K
        print(f'| {name} | {p50:.2f} | {p99:.2f} | {share:.2f} |')


def ways_of(gallery: Gallery) -> dict[str, Callable[[np.ndarray], list[int]]]:
    def of(find: Finder) -> Callable[[np.ndarray], list[int]]:
        return lambda query_1D: [hit.number for hit in find(query_1D, K)[0]]

    ways = {how: of(Finder(gallery, how)) for how in ('exact', 'binary')}
    try:
        import faiss
    except ImportError:
        return ways
    flat = faiss.IndexFlatIP(gallery.about.dim)
    flat.add(gallery.image_ND)
    ways['IndexFlatIP of faiss'] = lambda query_1D: flat.search(query_1D, K)[1][0].tolist()
    began = time.perf_counter()
    write_faiss(gallery.folder, gallery.image_ND, 'HNSW32')
    print(f'HNSW32 was made in {time.perf_counter() - began:.0f} s')
    return ways | {'faiss, HNSW32': of(Finder(gallery, 'faiss'))}


if __name__ == '__main__':
    main()
