"""Records what a change of the code's form must not change.

    python tests/golden/record.py OUT.json EMOJI_DIR SCENES_DIR [RUN ...]

EMOJI_DIR and SCENES_DIR are prepared data as `tests/conftest.py` makes them. Each run below, or
each of those named, is prepared and trained through the command line on one CPU device. Its entry
in OUT.json holds the loss and the gradient norm of every step, a digest of the first batches of
each stream and, for some runs, scores and exported weights. Runs that are not named have their
streams' digests alone.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

STEPS, BATCHES = 3, 20
SCHEDULE = ('--config.schedule.log_every=1', f'--config.schedule.num_steps={STEPS}')
CODEBOOK = (
    '--config.streams.pairs.regions.by=patches',
    '--config.streams.pairs.regions.most=36',
    '--config.streams.pairs.regions.side=16',
    '--config.streams.pairs.regions.codebook=16',
    '--config.model.towers.fusion.feature_size=768',
    '--config.model.num_classes=16',
)
# The second stage starts from the weights of a run recorded before it.
FROM_JOINT = ('--config.init_from.model={unicoder_vl}',)


class Recorded(NamedTuple):
    """A run to record: its config, overrides, and what is read besides its steps and streams."""

    config: str
    overrides: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()


RUNS = {
    'emoji': Recorded('emoji:tiny', (), ('scores', 'weights')),
    'emoji_align': Recorded('emoji:align,tiny'),
    'emoji_decomposed': Recorded('emoji:decomposed,tiny', (), ('scores',)),
    'emoji_ring': Recorded('emoji:tiny', ('--config.tasks.image_text.objective.by=ring',)),
    'emoji_parts': Recorded('emoji:tiny', ('--config.microbatches=2',)),
    'align': Recorded('align:tiny'),
    'mural': Recorded('mural:tiny'),
    'clip': Recorded('clip:tiny'),
    'siglip': Recorded('siglip:tiny'),
    'siglip_ring': Recorded('siglip:tiny', ('--config.tasks.image_text.objective.by=ring',)),
    'unicoder_vl': Recorded('unicoder_vl:tiny', (), ('scores',)),
    'unicoder_vl_codebook': Recorded('unicoder_vl:tiny', CODEBOOK),
    'unicoder_vl_similar': Recorded('unicoder_vl:tiny,similar'),
    'unicoder_vl_tags': Recorded('unicoder_vl:tiny,tags'),
    'vldeformer': Recorded('vldeformer:tiny', FROM_JOINT, ('scores',)),
    'vldeformer_plain': Recorded('vldeformer:tiny,plain', FROM_JOINT),
    'vldeformer_distilled': Recorded('vldeformer:tiny,distilled', FROM_JOINT),
}


# Runs that the suite trains: one of each kind of model, and one with a companion. Of the others it
# compares the streams' digests alone.
QUICK = ('emoji', 'unicoder_vl', 'vldeformer_distilled')


def record(
    folder: Path, emoji_dir: Path, scenes_dir: Path, trained: Collection[str]
) -> dict[str, Any]:
    """The entries of all runs, of which some are trained; their workdirs go to `folder`."""
    workdirs = {name: folder / name for name in RUNS}
    entries = {}
    for name, run in RUNS.items():
        overrides = [word.format(**workdirs) for word in run.overrides]
        words = [f'--config={run.config}', *SCHEDULE, *overrides]
        data_dir = scenes_dir if name.startswith(('unicoder_vl', 'vldeformer')) else emoji_dir
        where = [f'--data_dir={data_dir}', f'--workdir={workdirs[name]}']
        call_mural('prepare', *words, where[0])
        entries[name] = {'streams': digest_streams(run.config, words[1:], data_dir)}
        if name not in trained:
            continue
        call_mural('train', *words, *where)
        entries[name]['steps'] = read_steps(workdirs[name])
        if 'scores' in run.reads:
            call_mural('evaluate', *where)
            scores = json.loads((workdirs[name] / 'eval' / f'{STEPS}.json').read_text())
            entries[name]['scores'] = select_scores(scores['results'])
        if 'weights' in run.reads:
            out = folder / 'exported'
            call_mural('export', where[1], '--format=safetensors', f'--out={out}')
            entries[name]['weights'] = read_norms(out)
    return entries


def call_mural(*words: str) -> None:
    from mural_jax.cli.parser import main

    if code := main(list(words)):
        raise SystemExit(f'mural {" ".join(words)} ended with {code}')


def read_steps(workdir: Path) -> list[dict[str, float]]:
    """Losses and gradient norms of every step."""
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [
        {key: line[key] for key in sorted(line) if key.endswith(('loss', 'gradient_norm'))}
        for line in lines
    ]


def digest_streams(config: str, overrides: list[str], data_dir: Path) -> dict[str, Any]:
    """By stream and field a hash of the first batches, and their mean."""
    from mural_jax.config.load import load_config
    from mural_jax.runs.run import Run
    from mural_jax.runs.start import open_streams

    run = Run.of(load_config(config, overrides))
    digests: dict[str, Any] = {}
    for name, stream in open_streams(run, data_dir / 'none', data_dir)[1].items():
        hashes: dict[str, Any] = {}
        sums: dict[str, float] = {}
        for batch in stream.batches(0, BATCHES):
            for field, value in batch.items():
                hashes.setdefault(field, hashlib.sha256()).update(value.tobytes())
                sums[field] = sums.get(field, 0.0) + float(value.astype('float64').mean())
        digests[name] = {
            field: {'sha256': hashes[field].hexdigest()[:16], 'mean': sums[field] / BATCHES}
            for field in sorted(hashes)
        }
    return digests


def select_scores(results: dict[str, Any]) -> dict[str, Any]:
    """Some languages and all means, without what depends on the machine."""
    return {
        name: {
            language: {key: value for key, value in row.items() if 'seconds' not in key}
            for language, row in rows.items()
            if language in ('en', 'de', 'sw') or language.startswith('mean_')
        }
        for name, rows in results.items()
    }


def read_norms(folder: Path) -> dict[str, float]:
    """Norms of the exported arrays, by name."""
    from safetensors.numpy import load_file

    (file,) = folder.glob('*.safetensors')
    return {
        name: float((value.astype('float64') ** 2).sum() ** 0.5)
        for name, value in sorted(load_file(file).items())
    }


def main() -> None:
    out, emoji_dir, scenes_dir = map(Path, sys.argv[1:4])
    with tempfile.TemporaryDirectory(prefix='mural-golden-') as folder:
        entries = record(Path(folder), emoji_dir, scenes_dir, sys.argv[4:] or RUNS)
    out.write_text(json.dumps(entries, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
