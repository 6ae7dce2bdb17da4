"""Records what a change of the code must not change: `python record.py OUT [NAME ...]`.

Each run below is prepared, trained and read through the command line on one CPU device. Its entry
in OUT (JSON) holds the loss and the gradient norm of every step, a digest of the first batches of
each stream, and, where the run is evaluated or exported, its scores and its weights.
"""

import hashlib
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCHES = 50
STEP = ('--config.schedule.log_every=1', '--config.schedule.num_steps=12')
EMOJI = ('prepare',)
SCENES = ('data', 'ingest', 'scenes', '--name=scenes', '--count=200', '--test_count=20', '--tags')
CODEBOOK = (
    '--config.streams.pairs.regions.by=patches',
    '--config.streams.pairs.regions.most=36',
    '--config.streams.pairs.regions.side=16',
    '--config.streams.pairs.regions.codebook=16',
    '--config.model.towers.fusion.feature_size=768',
    '--config.model.num_classes=16',
)
# name: (config, overrides, further verbs). INIT stands for the workdir of an earlier run.
RUNS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    'emoji': ('emoji:tiny', (), ('evaluate', 'export')),
    'emoji_align': ('emoji:align,tiny', (), ()),
    'emoji_decomposed': ('emoji:decomposed,tiny', (), ('evaluate',)),
    'emoji_ring': ('emoji:tiny', ('--config.tasks.image_text.objective.by=ring',), ()),
    'emoji_parts': ('emoji:tiny', ('--config.microbatches=2',), ()),
    'align': ('align:tiny', (), ()),
    'mural': ('mural:tiny', (), ()),
    'clip': ('clip:tiny', (), ()),
    'siglip': ('siglip:tiny', (), ()),
    'siglip_ring': ('siglip:tiny', ('--config.tasks.image_text.objective.by=ring',), ()),
    'unicoder_vl': ('unicoder_vl:tiny', (), ('evaluate',)),
    'unicoder_vl_codebook': ('unicoder_vl:tiny', CODEBOOK, ()),
    'unicoder_vl_similar': ('unicoder_vl:tiny,similar', (), ()),
    'unicoder_vl_tags': ('unicoder_vl:tiny,tags', (), ()),
    'vldeformer': ('vldeformer:tiny', ('--config.init_from.model=INIT',), ('evaluate',)),
    'vldeformer_plain': ('vldeformer:tiny,plain', ('--config.init_from.model=INIT',), ()),
    'vldeformer_distilled': ('vldeformer:tiny,distilled', ('--config.init_from.model=INIT',), ()),
}
INIT = 'unicoder_vl'
NEEDS_SCENES = ('unicoder_vl', 'vldeformer')


def record(folder: Path, names: list[str]) -> dict[str, Any]:
    """The entries of some runs; all their files go to a folder."""
    data_dir, workdirs = folder / 'data', folder / 'runs'
    entries = {}
    for name in names:
        started = time.monotonic()
        config, overrides, verbs = RUNS[name]
        if name.startswith(NEEDS_SCENES) and not (data_dir / 'captions' / 'scenes').exists():
            _mural(*SCENES, f'--data_dir={data_dir}')
        words = [f'--config={config}', *STEP]
        words += [word.replace('INIT', str(workdirs / INIT)) for word in overrides]
        where = [f'--data_dir={data_dir}', f'--workdir={workdirs / name}']
        _mural('prepare', *words, where[0])
        _mural('train', *words, *where)
        entries[name] = {
            'steps': _steps(workdirs / name),
            'streams': _streams(config, words[1:], data_dir),
        }
        if 'evaluate' in verbs:
            _mural('evaluate', *where)
            scores = json.loads((workdirs / name / 'eval' / '12.json').read_text())
            entries[name]['scores'] = _without_seconds(scores['results'])
        if 'export' in verbs:
            out = folder / 'exported'
            _mural('export', where[1], '--format=safetensors', f'--out={out}')
            entries[name]['weights'] = _weights(out)
        print(f'recorded {name} in {time.monotonic() - started:.1f} s', flush=True)
    return entries


def _mural(*words: str) -> None:
    from mural_jax.cli.parser import main

    code = main([str(word) for word in words])
    if code:
        raise SystemExit(f'mural {" ".join(map(str, words))} ended with {code}')


def _steps(workdir: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [
        {key: line[key] for key in sorted(line) if key.endswith(('loss', 'gradient_norm'))}
        for line in lines
    ]


def _streams(config: str, overrides: list[str], data_dir: Path) -> dict[str, Any]:
    """By stream and field: a digest of the first batches, and their mean for images."""
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


def _without_seconds(results: dict[str, Any]) -> dict[str, Any]:
    return {
        name: {
            language: {key: value for key, value in row.items() if 'seconds' not in key}
            for language, row in rows.items()
            if language in ('en', 'de', 'sw') or language.startswith('mean_')
        }
        for name, rows in results.items()
    }


def _weights(out: Path) -> dict[str, Any]:
    from safetensors.numpy import load_file

    (file,) = out.glob('*.safetensors')
    norms = {
        name: float((value.astype('float64') ** 2).sum() ** 0.5)
        for name, value in sorted(load_file(file).items())
    }
    return {'sha256': hashlib.sha256(file.read_bytes()).hexdigest()[:16], 'norms': norms}


def main() -> None:
    out, *names = sys.argv[1:]
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')
    with tempfile.TemporaryDirectory(prefix='mural-golden-') as folder:
        entries = record(Path(folder), names or list(RUNS))
    Path(out).write_text(json.dumps(entries, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
