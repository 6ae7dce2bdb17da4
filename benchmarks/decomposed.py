"""One stream in two stages: pretrained, fine-tuned, decomposed, and its controls.

    python benchmarks/decomposed.py --out=DIR [--size=scenes] [--seeds 0 1 2] [--data_dir=DIR]

Composed scenes are made where they are missing: those of pretraining and fine-tuning, and a few
others for stage 2, the target, as one that is pretrained on much is brought to a smaller data set.
`--size=photos` needs the data sets of `unicoder_vl:photos`. Every stage is a run of the command
line in a folder of its own, `DIR/SEED/STAGE`; one that is done is not run again. Prints a table of
what the evaluators found, the mean over languages, then over seeds, with the standard deviation
where there are several.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

JOINT, STAGE_2 = 'unicoder_vl', 'vldeformer'
STEPS = ['--config.schedule.num_steps=1000']  # of fine-tuning, with and without pretraining
TARGET = 700  # scenes of stage 2
# stage: (config, its options, the stage whose weights it starts from, flags)
STAGES: dict[str, tuple[str, str, str, list[str]]] = {
    # Few pairs are scored: matching is compared where it is fine-tuned.
    'pretrained': (JOINT, '', '', ['--config.evaluators.cross_encoder.gallery=100']),
    'tuned': (JOINT, ',retrieval', 'pretrained', STEPS),
    'tuned from scratch': (JOINT, ',retrieval', '', STEPS),
    'decomposed': (STAGE_2, '', 'tuned', []),
    'decomposed, no hard negatives': (STAGE_2, ',plain', 'tuned', []),
    'decomposed, distilled': (STAGE_2, ',distilled', 'tuned', []),
    'A: without stage 2': (
        STAGE_2, ',plain', 'tuned',
        ['--config.schedule.num_steps=1', '--config.optimizer.learning_rate=0.0'],
    ),
    'B: from random weights': (STAGE_2, '', '', []),
}  # fmt: skip


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
        '--set', action='append', default=[], metavar='=FLAG',
        help='a flag of every stage, --set=--config.schedule.num_steps=600; may be repeated',
    )  # fmt: skip
    given = parser.parse_args()
    data_dir = given.data_dir or given.out / 'data'
    if given.size != 'photos':
        scenes(data_dir, 'scenes')
        scenes(data_dir, 'target', '--seed=1', f'--count={TARGET}')
    mural('prepare', f'--config={JOINT}:{given.size}', f'--data_dir={data_dir}')
    found: dict[str, list[dict[str, float]]] = {stage: [] for stage in given.stages}
    for seed in given.seeds:
        for stage in given.stages:
            folder = given.out / str(seed) / stage.replace(' ', '_')
            flags = [f'--config.seed={seed}', *given.set]
            found[stage].append(run(stage, given.size, folder, data_dir, flags))
            print(f'seed {seed}, {stage}: {found[stage][-1]}', flush=True)
    for stage, rows in found.items():
        for metric in rows[0]:
            values = [row[metric] for row in rows]
            spread = f' ± {statistics.stdev(values):.2f}' if len(values) > 1 else ''
            print(f'| {stage} | {metric} | {statistics.mean(values):.2f}{spread} |')


def scenes(data_dir: Path, name: str, *words: str) -> None:
    """Makes composed scenes where they are missing."""
    if not (data_dir / 'captions' / name).exists():
        where = (f'--name={name}', f'--data_dir={data_dir}')
        mural('data', 'ingest', 'scenes', '--objects=300', *where, *words)


def run(stage: str, size: str, folder: Path, data_dir: Path, flags: list[str]) -> dict[str, float]:
    """Trains and evaluates a stage where that is not done; what was found, by metric."""
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
    subprocess.run([sys.executable, '-P', '-m', 'mural_jax', *words], check=True)


if __name__ == '__main__':
    main()
