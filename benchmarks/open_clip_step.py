"""Pairs per second of one training step, this project against open_clip, in turns.

    pip install -e '.[parity]' && python benchmarks/open_clip_step.py [--rounds=5]

A ViT-S/16 at 224 pixels with a text tower of the same width and depth, 77 tokens, batch 16,
float32, AdamW, on the CPU: the same widths, depths, tokens and batch on both sides. Each round
runs both, one after the other, in processes of their own and with the same environment, so that
what else the machine does meets both; the ratio is the median of the rounds' ratios.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

BATCH, STEPS, WARM_UP = 16, 5, 2
WIDTH, DEPTH, HEADS, VOCABULARY, LENGTH, END = 384, 12, 6, 49408, 77, 49407
LAYERS = {'width': WIDTH, 'depth': DEPTH, 'num_heads': HEADS, 'activation': 'gelu', 'unroll': DEPTH}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--huge_pages', type=int, default=1, help='for both sides (default: 1)')
    parser.add_argument('--only', choices=['ours', 'open_clip'])
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps({'ours': ours, 'open_clip': theirs}[arguments.only]()))
        return
    environment = dict(os.environ)
    if arguments.huge_pages:
        # What `mural train` does by itself.
        environment['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
    rows = []
    for number in range(arguments.rounds):
        row = {name: child(name, environment) for name in ('ours', 'open_clip')}
        rows.append(row)
        rates = {name: BATCH / seconds for name, seconds in row.items()}
        print(f'round {number}: ours {rates["ours"]:.2f}, open_clip {rates["open_clip"]:.2f} '
              f'pairs/s, ratio {rates["ours"] / rates["open_clip"]:.2f}', flush=True)  # fmt: skip
    ratios = [row['open_clip'] / row['ours'] for row in rows]
    for name in ('ours', 'open_clip'):
        print(f'{name}: {BATCH / statistics.median(row[name] for row in rows):.2f} pairs/s')
    print(f'ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}')
    import importlib.metadata as metadata

    versions = [f'{p} {metadata.version(p)}' for p in ('jax', 'torch', 'open_clip_torch')]
    print(', '.join([f'Python {platform.python_version()}', f'{os.cpu_count()} cores', *versions]))


def child(name: str, environment: dict[str, str]) -> float:
    """Median seconds of a step."""
    command = [sys.executable, __file__, f'--only={name}']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def clocked(step: Callable[[], None]) -> list[float]:
    seconds = []
    for _ in range(WARM_UP + STEPS):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds[WARM_UP:]


def batch() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    text_BL = rng.integers(1, END, (BATCH, LENGTH)).astype(np.int32)
    text_BL[:, 20] = END
    return rng.integers(0, 256, (BATCH, 224, 224, 3)).astype(np.uint8), text_BL


def ours() -> list[float]:
    import jax

    from mural_jax import config
    from mural_jax.run import Run

    size = [f'--config.model.towers.{tower}.layers.{key}={value}'
            for tower in ('image', 'text') for key, value in LAYERS.items()]  # fmt: skip
    more = [f'--config.model.embedding={WIDTH}', '--config.model.dtype=float32',
            f'--config.model.towers.text.eot_id={END}',
            f'--config.streams.captions.batch_size={BATCH}']  # fmt: skip
    run = Run.of(config.load('clip:b16', [*size, *more]))
    graphdef, params, statistics = run.build_model(VOCABULARY)
    trainer = run.build_trainer(graphdef, params)
    image_BHWC, text_BL = batch()
    ids = np.arange(BATCH, dtype=np.int32)[:, None]
    batches = {'captions': {'image': image_BHWC, 'text': text_BL, 'ids': ids}}
    held = [trainer.place(params, statistics)]

    def step() -> None:
        held[0], _ = trainer.step(held[0], batches)
        jax.block_until_ready(held[0])

    return clocked(step)


def theirs() -> list[float]:
    import torch

    # torchvision may not find its operators beside the CPU build of PyTorch; none is called.
    operators = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        try:
            operators.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        except RuntimeError:
            continue
    import open_clip
    from open_clip.model import CLIP

    torch.set_num_threads(os.cpu_count() or 1)
    vision = open_clip.CLIPVisionCfg(layers=DEPTH, width=WIDTH, head_width=64, patch_size=16)
    text = open_clip.CLIPTextCfg(vocab_size=VOCABULARY, width=WIDTH, heads=HEADS, layers=DEPTH)
    model = CLIP(WIDTH, vision, text).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=0.2)
    loss = open_clip.loss.ClipLoss()
    image_BHWC, text_BL = batch()
    image = torch.tensor(image_BHWC.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    tokens = torch.tensor(text_BL.astype(np.int64))

    def step() -> None:
        optimizer.zero_grad()
        loss(*model(image, tokens)[:3]).backward()
        optimizer.step()

    return clocked(step)


if __name__ == '__main__':
    main()
