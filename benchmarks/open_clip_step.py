"""Pairs per second of one training step, this project against open_clip, in turns.

    pip install -e '.[parity]' && python benchmarks/open_clip_step.py [--rounds=5]

As it stands, what two cores can do: a ViT-S/16 at 224 pixels with a text tower of the same width
and depth, 77 tokens, batch 16, float32, AdamW. `--size=b16` is CLIP's ViT-B/16 with its text tower,
for a GPU, which takes bfloat16 on both sides and torch.compile on theirs:

    python benchmarks/open_clip_step.py --size=b16 --batch=512 --attention=cudnn --rounds=3

The same widths, depths, tokens and batch on both sides. Each round runs both, one after the other,
in processes of their own and with the same environment, so that what else the machine does meets
both; the ratio is the median of the rounds' ratios. Our step is given the batch from the host's
memory, as in training; theirs finds it on the device.
"""

import argparse
import importlib.metadata as metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mural_jax.config.load import load_config

DEPTH, VOCABULARY, LENGTH, END = 12, 49408, 77, 49407
# (width and heads of the image tower, of the text tower, embedding)
SIZES = {'s16': ((384, 6), (384, 6), 384), 'b16': ((768, 12), (512, 8), 512)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--size', choices=SIZES, default='s16')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--steps', type=int, default=5, help='measured a round (default: 5)')
    parser.add_argument('--warm_up', type=int, default=2, help='steps (default: 2)')
    parser.add_argument('--attention', choices=['xla', 'cudnn'], default='xla', help='ours')
    parser.add_argument('--huge_pages', type=int, default=1, help='for both sides (default: 1)')
    parser.add_argument('--only', choices=SIDES)
    arguments = parser.parse_args()
    if arguments.only:
        step, about = SIDES[arguments.only](arguments)
        print(json.dumps({'seconds': clocked(step, arguments), 'about': about}))
        return
    environment = dict(os.environ)
    if arguments.huge_pages:
        # What `mural train` does by itself.
        environment['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
    rows, about = [], {}
    for number in range(arguments.rounds):
        row = {}
        for name in SIDES:
            said = child(name, environment)
            row[name], about[name] = statistics.median(said['seconds']), said['about']
        rows.append(row)
        rates = {name: arguments.batch / seconds for name, seconds in row.items()}
        print(f'round {number}: ours {rates["ours"]:.2f}, open_clip {rates["open_clip"]:.2f} '
              f'pairs/s, ratio {rates["ours"] / rates["open_clip"]:.2f}', flush=True)  # fmt: skip
    ratios = [row['open_clip'] / row['ours'] for row in rows]
    for name in SIDES:
        rate = arguments.batch / statistics.median(row[name] for row in rows)
        print(f'{name}: {rate:.2f} pairs/s; {about[name]}')
    print(f'ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}')
    versions = [f'{p} {metadata.version(p)}' for p in ('jax', 'torch', 'open_clip_torch')]
    print(', '.join([f'Python {platform.python_version()}', f'{os.cpu_count()} cores', *versions]))


def child(name: str, environment: dict[str, str]) -> dict[str, Any]:
    """Seconds of the steps, and what they ran on."""
    command = [sys.executable, *sys.argv, f'--only={name}']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def clocked(step: Callable[[], None], arguments: argparse.Namespace) -> list[float]:
    seconds = []
    for _ in range(arguments.warm_up + arguments.steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds[arguments.warm_up :]


def batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    text_BL = rng.integers(1, END, (size, LENGTH)).astype(np.int32)
    text_BL[:, 20] = END
    return rng.integers(0, 256, (size, 224, 224, 3)).astype(np.uint8), text_BL


def ours(arguments: argparse.Namespace) -> tuple[Callable[[], None], str]:
    import jax

    from mural_jax.runs.run import Run

    device = jax.devices()[0]
    dtype = 'bfloat16' if device.platform == 'gpu' else 'float32'
    image, text, embedding = SIZES[arguments.size]
    size = [f'--config.model.towers.{tower}.layers.{key}={value}'
            for tower, (width, heads) in (('image', image), ('text', text))
            for key, value in (('width', width), ('num_heads', heads), ('depth', DEPTH),
                               ('unroll', DEPTH), ('activation', 'gelu'))]  # fmt: skip
    more = [f'--config.model.embedding={embedding}', f'--config.model.dtype={dtype}',
            f'--config.model.attention={arguments.attention}',
            f'--config.model.towers.text.eot_id={END}',
            f'--config.streams.captions.batch_size={arguments.batch}']  # fmt: skip
    run = Run.of(load_config('clip:b16', [*size, *more]))
    graphdef, params, statistics = run.build_model(VOCABULARY)
    trainer = run.build_trainer(graphdef, params)
    image_BHWC, text_BL = batch(arguments.batch)
    ids = np.arange(arguments.batch, dtype=np.int32)[:, None]
    batches = {'captions': {'image': image_BHWC, 'text': text_BL, 'ids': ids}}
    held = [trainer.place(params, statistics)]

    def step() -> None:
        held[0], _ = trainer.step(held[0], batches)
        jax.block_until_ready(held[0])

    return step, f'{device.device_kind}, {dtype}, attention by {arguments.attention}'


def theirs(arguments: argparse.Namespace) -> tuple[Callable[[], None], str]:
    import torch

    gpu = torch.cuda.is_available()
    if not gpu:
        without_torchvision(torch)
        torch.set_num_threads(os.cpu_count() or 1)
    import open_clip
    from open_clip.model import CLIP

    (width, heads), (text_width, text_heads), embedding = SIZES[arguments.size]
    vision = open_clip.CLIPVisionCfg(
        layers=DEPTH, width=width, head_width=width // heads, patch_size=16
    )
    text = open_clip.CLIPTextCfg(
        vocab_size=VOCABULARY, width=text_width, heads=text_heads, layers=DEPTH
    )
    device = torch.device('cuda' if gpu else 'cpu')
    model = CLIP(embedding, vision, text).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, betas=(0.9, 0.98), weight_decay=0.2)
    if gpu:  # What their trainer does with --precision amp_bf16 --torchcompile.
        torch.backends.cuda.matmul.allow_tf32 = True
        model = torch.compile(model)
    loss = open_clip.loss.ClipLoss()
    image_BHWC, text_BL = batch(arguments.batch)
    image = torch.tensor(image_BHWC.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
    image, tokens = image.to(device), torch.tensor(text_BL.astype(np.int64)).to(device)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16, enabled=gpu):
            value = loss(*model(image, tokens)[:3])
        value.backward()
        optimizer.step()
        if gpu:
            torch.cuda.synchronize()

    name = torch.cuda.get_device_name() if gpu else 'cpu'
    return step, f'{name}, {"bfloat16 autocast, torch.compile" if gpu else "float32"}'


def without_torchvision(torch: Any) -> None:
    """torchvision may not find its operators beside the CPU build of PyTorch; none is called."""
    operators = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        try:
            operators.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        except RuntimeError:
            continue
    KEPT.append(operators)  # The library goes with its last reference.


KEPT: list[Any] = []
SIDES = {'ours': ours, 'open_clip': theirs}

if __name__ == '__main__':
    main()
