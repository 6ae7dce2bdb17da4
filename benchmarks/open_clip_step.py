"""Pairs per second of a training step: mural_jax against open_clip.

    pip install -e '.[parity]' && python benchmarks/open_clip_step.py [--rounds=5]

The defaults fit two CPU cores: a ViT-S/16 at 224 pixels with a text tower of the same width and
depth, 77 tokens, batch 16, float32, AdamW. `--size=b16` is CLIP's ViT-B/16 with its text tower, for
a GPU. There both sides compute in bfloat16, and open_clip uses torch.compile:

    python benchmarks/open_clip_step.py --size=b16 --batch=512 --attention=cudnn --rounds=3

Widths, depths, tokens and batches are equal on both sides. Each round runs both, one after the
other, in separate processes with the same environment, so that other load on the machine slows
both. The ratio is the median of the ratios of the rounds. Our step copies its batch from host
memory, as in training; the batch of open_clip is on the device already.
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
# ((width, heads) of the image tower, (width, heads) of the text tower, width of the embedding)
SIZES = {'s16': ((384, 6), (384, 6), 384), 'b16': ((768, 12), (512, 8), 512)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--size', choices=SIZES, default='s16')
    parser.add_argument('--batch', type=int, default=16)
    parser.add_argument('--steps', type=int, default=5, help='Measured steps per round.')
    parser.add_argument('--warm_up', type=int, default=2, help='Steps before the measurement.')
    parser.add_argument(
        '--attention', choices=['xla', 'cudnn'], default='xla', help='For mural_jax.'
    )
    parser.add_argument('--huge_pages', type=int, default=1, help='0 or 1, for both sides.')
    parser.add_argument('--only', choices=SIDES, help='Measures one side in this process.')
    arguments = parser.parse_args()
    if arguments.only:
        step, description = SIDES[arguments.only](arguments)
        print(json.dumps({'seconds': time_steps(step, arguments), 'description': description}))
        return
    environment = dict(os.environ)
    if arguments.huge_pages:
        # `mural train` sets this for itself.
        environment['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
    rows, descriptions = [], {}
    for number in range(arguments.rounds):
        row = {}
        for name in SIDES:
            answer = run_side(name, environment)
            row[name] = statistics.median(answer['seconds'])
            descriptions[name] = answer['description']
        rows.append(row)
        rates = {name: arguments.batch / seconds for name, seconds in row.items()}
        print(
            f'round {number}: ours {rates["ours"]:.2f}, open_clip {rates["open_clip"]:.2f} '
            f'pairs/s, ratio {rates["ours"] / rates["open_clip"]:.2f}',
            flush=True,
        )
    ratios = [row['open_clip'] / row['ours'] for row in rows]
    for name in SIDES:
        rate = arguments.batch / statistics.median(row[name] for row in rows)
        print(f'{name}: {rate:.2f} pairs/s; {descriptions[name]}')
    print(f'ratio {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}')
    versions = [f'{p} {metadata.version(p)}' for p in ('jax', 'torch', 'open_clip_torch')]
    print(', '.join([f'Python {platform.python_version()}', f'{os.cpu_count()} cores', *versions]))


def run_side(name: str, environment: dict[str, str]) -> dict[str, Any]:
    """The seconds of the steps of one side, and a description of what it ran on."""
    command = [sys.executable, *sys.argv, f'--only={name}']
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def time_steps(step: Callable[[], None], arguments: argparse.Namespace) -> list[float]:
    """Seconds of each measured step."""
    seconds = []
    for _ in range(arguments.warm_up + arguments.steps):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds[arguments.warm_up :]


def make_batch(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images, uint8 [B, 224, 224, 3], and random texts of 21 tokens, int32 [B, L]."""
    rng = np.random.default_rng(0)
    text_BL = rng.integers(1, END, (size, LENGTH)).astype(np.int32)
    text_BL[:, 20] = END
    return rng.integers(0, 256, (size, 224, 224, 3)).astype(np.uint8), text_BL


def build_our_step(arguments: argparse.Namespace) -> tuple[Callable[[], None], str]:
    """(a function that runs one step of mural_jax, what it runs on)."""
    import jax

    from mural_jax.runs.run import Run

    device = jax.devices()[0]
    dtype = 'bfloat16' if device.platform == 'gpu' else 'float32'
    image, text, embedding = SIZES[arguments.size]
    layers = [
        f'--config.model.towers.{tower}.layers.{key}={value}'
        for tower, (width, heads) in (('image', image), ('text', text))
        for key, value in (
            ('width', width),
            ('num_heads', heads),
            ('depth', DEPTH),
            ('unroll', DEPTH),
            ('activation', 'gelu'),
        )
    ]
    others = [
        f'--config.spaces.image_text.embedding={embedding}',
        f'--config.model.dtype={dtype}',
        f'--config.model.attention={arguments.attention}',
        f'--config.model.towers.text.eot_id={END}',
        f'--config.streams.captions.batch_size={arguments.batch}',
    ]
    run = Run.of(load_config('clip:b16', [*layers, *others]))
    graphdef, params, statistics = run.build_model(VOCABULARY)
    trainer = run.build_trainer(graphdef, params)
    image_BHWC, text_BL = make_batch(arguments.batch)
    ids = np.arange(arguments.batch, dtype=np.int32)[:, None]
    batches = {'captions': {'image': image_BHWC, 'text': text_BL, 'ids': ids}}
    # A list, because the step donates its state: each step must replace the only reference.
    states = [trainer.initial_state(params, statistics)]

    def step() -> None:
        states[0], _ = trainer.step(states[0], batches)
        jax.block_until_ready(states[0])

    return step, f'{device.device_kind}, {dtype}, attention by {arguments.attention}'


def build_open_clip_step(arguments: argparse.Namespace) -> tuple[Callable[[], None], str]:
    """(a function that runs one step of open_clip, what it runs on)."""
    import torch

    gpu = torch.cuda.is_available()
    if not gpu:
        define_torchvision_operators(torch)
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
    if gpu:  # as in open_clip's trainer with --precision amp_bf16 --torchcompile
        torch.backends.cuda.matmul.allow_tf32 = True
        model = torch.compile(model)
    loss = open_clip.loss.ClipLoss()
    image_BHWC, text_BL = make_batch(arguments.batch)
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


def define_torchvision_operators(torch: Any) -> None:
    """Defines what torchvision needs to be imported beside the CPU build of PyTorch.

    None of these operators is called.
    """
    operators = torch.library.Library('torchvision', 'FRAGMENT')
    for name in ('nms', 'qnms'):
        try:
            operators.define(f'{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        except RuntimeError:
            continue
    LIBRARIES.append(operators)


LIBRARIES: list[Any] = []  # PyTorch forgets a library with its last reference.
SIDES = {'ours': build_our_step, 'open_clip': build_open_clip_step}

if __name__ == '__main__':
    main()
