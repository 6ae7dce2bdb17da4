"""One stream in two stages: pretraining, fine-tuning, decomposition, and the controls.

    python benchmarks/decomposed.py --out=DIR [--size=scenes] [--seeds 0 1 2] [--data_dir=DIR]

Makes the composed scenes that are missing: one set for pretraining and fine-tuning, and a small
second set for stage 2, as if a model pretrained on much data were adapted to a smaller data set.
`--size=photos` needs the data sets of `unicoder_vl:photos`.

Every stage is a run of the command line with a workdir of its own, `DIR/SEED/STAGE`. Stages that
are done are not run again. At the end the script prints a table of all metrics, as means over
languages and then over seeds, with the standard deviation over several seeds.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

JOINT, STAGE_2 = 'unicoder_vl', 'vldeformer'
STEPS = ['--config.schedule.num_steps=1000']  # for fine-tuning with and without pretraining
TARGET_SCENES = 700  # for stage 2
# stage: (config, options of the config, the stage whose weights it starts from, further flags)
STAGES: dict[str, tuple[str, str, str, list[str]]] = {
    # A small gallery: retrieval is compared after fine-tuning, and every pair costs a joint pass.
    'pretrained': (JOINT, '', '', ['--config.evaluators.cross_encoder.gallery=100']),
    'tuned': (JOINT, ',retrieval', 'pretrained', STEPS),
    'tuned from scratch': (JOINT, ',retrieval', '', STEPS),
    'decomposed': (STAGE_2, '', 'tuned', []),
    'decomposed, no hard negatives': (STAGE_2, ',plain', 'tuned', []),
    'decomposed, distilled': (STAGE_2, ',distilled', 'tuned', []),
    'A: without stage 2': (
        STAGE_2,
        ',plain',
        'tuned',
        ['--config.schedule.num_steps=1', '--config.optimizer.learning_rate=0.0'],
    ),
    'B: from random weights': (STAGE_2, '', '', []),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--out', type=Path, required=True)
    parser.add_argument('--size', choices=['scenes', 'photos', 'tiny'], default='scenes')
    parser.add_argument('--data_dir', type=Path)
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--stages', nargs='+', default=list(STAGES), choices=STAGES)
    parser.add_argument(
        '--set',
        action='append',
        default=[],
        metavar='=FLAG',
        help='A flag for every stage, such as --set=--config.schedule.num_steps=600. Repeatable.',
    )
    given = parser.parse_args()
    data_dir = given.data_dir or given.out / 'data'
    if given.size != 'photos':
        ensure_scenes(data_dir, 'scenes')
        ensure_scenes(data_dir, 'target', '--seed=1', f'--count={TARGET_SCENES}')
    mural('prepare', f'--config={JOINT}:{given.size}', f'--data_dir={data_dir}')
    results: dict[str, list[dict[str, float]]] = {stage: [] for stage in given.stages}
    for seed in given.seeds:
        for stage in given.stages:
            folder = given.out / str(seed) / stage.replace(' ', '_')
            flags = [f'--config.seed={seed}', *given.set]
            results[stage].append(run_stage(stage, given.size, folder, data_dir, flags))
            print(f'seed {seed}, {stage}: {results[stage][-1]}', flush=True)
    for stage, rows in results.items():
        for metric in rows[0]:
            values = [row[metric] for row in rows]
            spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
            print(f'| {stage} | {metric} | {statistics.mean(values):.2f}{spread} |')


def ensure_scenes(data_dir: Path, name: str, *words: str) -> None:
    """Makes a data set of composed scenes if it is missing."""
    if not (data_dir / 'captions' / name).exists():
        where = (f'--name={name}', f'--data_dir={data_dir}')
        mural('data', 'ingest', 'scenes', '--objects=300', *where, *words)


def run_stage(
    stage: str, size: str, folder: Path, data_dir: Path, flags: list[str]
) -> dict[str, float]:
    """The metrics of a stage, trained and evaluated now if that is not done yet."""
    config, options, start, more = STAGES[stage]
    if not list((folder / 'eval').glob('*.json')):
        before = folder.parent / start.replace(' ', '_')
        given = [f'--config.init_from.model={before}'] if start else []
        where = [f'--workdir={folder}', f'--data_dir={data_dir}']
        name = f'--config={config}:{size}{options}'
        if config == STAGE_2 and size != 'photos':
            vocabulary = folder.parent / 'pretrained' / 'vocabulary.model'
            given += [
                '--config.streams.pairs.sources.main.dataset=captions/target',
                f'--config.tokenizer.path={vocabulary}',
            ]
            mural('prepare', name, f'--data_dir={data_dir}', *given, *more, *flags)
        mural('train', name, *where, *given, *more, *flags)
        mural('evaluate', *where)
    (scores,) = (folder / 'eval').glob('*.json')
    metrics = {}
    for rows in json.loads(scores.read_text(encoding='utf-8'))['results'].values():
        metrics |= rows.get('mean_all') or rows['all']
    return metrics


def mural(*words: str) -> None:
    """Runs one command; its output goes to the terminal."""
    subprocess.run([sys.executable, '-P', '-m', 'mural_jax', *words], check=True)


if __name__ == '__main__':
    main()
