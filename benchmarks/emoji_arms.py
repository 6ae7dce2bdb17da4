"""MURAL, ALIGN and the control on emoji, with several seeds: the table of the README.

    python benchmarks/emoji_arms.py --data_dir=DATA --runs=FOLDER [--seeds=3] [--arms mural align]

Run `mural prepare --config=emoji --data_dir=DATA` first. Each run has its own workdir below FOLDER
and resumes where it stopped, so the script can be started again at any time.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

ARMS = ('mural', 'align', 'shuffled')
ROWS = {
    'held-out images, 20 translation-only languages': (
        'image_text_held_out',
        'mean_translation_only',
    ),
    'held-out images, 12 image-text languages': ('image_text_held_out', 'mean_image_text'),
    'seen images, 20 translation-only languages': ('image_text_seen', 'mean_translation_only'),
    'held-out names, 20 languages to and from English': (
        'text_text_held_out',
        'mean_translation_only',
    ),
}
VERSIONS = ('jax', 'flax', 'optax', 'orbax-checkpoint', 'sentencepiece', 'tensorflow-datasets')


def mural(*words: str) -> None:
    """Runs one command; its output goes to the terminal."""
    subprocess.run([sys.executable, '-P', '-m', 'mural_jax', *words], check=True)


def run_arm(arm: str, seed: int, runs: Path, data_dir: Path) -> tuple[dict, float]:
    """(results, seconds of training) of one arm and seed, run now if that is not done yet."""
    workdir = runs / f'{arm}-{seed}'
    if not list(workdir.glob('eval/*.json')):
        config = [f'--config=emoji:{arm}', f'--config.seed={seed}']
        mural('train', *config, f'--workdir={workdir}', f'--data_dir={data_dir}')
        mural('evaluate', f'--workdir={workdir}', f'--data_dir={data_dir}')
    (scores,) = workdir.glob('eval/*.json')
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    steps = [0] + [line['step'] for line in lines]
    seconds = sum(
        line['step_seconds'] * (line['step'] - before) for line, before in zip(lines, steps)
    )
    return json.loads(scores.read_text(encoding='utf-8'))['results'], seconds


def format_cell(values: list[float]) -> str:
    """The mean and the sample standard deviation."""
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{spread}'


def main() -> None:
    """Runs the arms and seeds that are missing and prints the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data_dir', type=Path, required=True)
    parser.add_argument('--runs', type=Path, required=True)
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--arms', nargs='+', default=ARMS, help='Arguments of the config emoji.')
    arguments = parser.parse_args()
    arms = arguments.arms
    done = {
        arm: [
            run_arm(arm, seed, arguments.runs, arguments.data_dir)
            for seed in range(arguments.seeds)
        ]
        for arm in arms
    }
    print(f'| mean recall, % | {" | ".join(arms)} |')
    print('| --- |' + ' ---: |' * len(arms))
    for title, (evaluator, group) in ROWS.items():
        cells = [
            format_cell([results[evaluator][group]['mean_recall'] for results, _ in done[arm]])
            for arm in arms
        ]
        print(f'| {title} | {" | ".join(cells)} |')
    minutes = [format_cell([seconds / 60 for _, seconds in done[arm]]) for arm in arms]
    print(f'| minutes of training | {" | ".join(minutes)} |')
    versions = ', '.join(f'{name} {importlib.metadata.version(name)}' for name in VERSIONS)
    print(
        f'\n{arguments.seeds} seeds, mean ± standard deviation; {versions}, Python '
        f'{platform.python_version()}, {os.cpu_count()} cores.'
    )


if __name__ == '__main__':
    main()
