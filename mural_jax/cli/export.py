"""What `mural export` does: a folder for the tools of others, checked before it is there."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.exports import card
from mural_jax.exports.catalog import FORMATS
from mural_jax.exports.parity import Mismatch, compare
from mural_jax.exports.trained import Examples, Subject, about, among
from mural_jax.models.build import abstract
from mural_jax.runs.restore import Restored, restore
from mural_jax.search.run_index import Index
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import check_vocabulary
from mural_jax.workdir.files import read_config

PICTURES, TEXTS = 64, 256  # examples of a check, at most


def export(
    workdir: Path, step: int | None, kind: str, out: Path, dtype: str, tower: str | None
) -> int:
    """Writes the folder `out`, whole or not at all; 1 where it does not prove itself."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'{out} is there already. Give a folder that is not, with --out.')
    if dtype not in FORMATS[kind].dtypes:
        raise UserError(
            f'--format={kind} has no {dtype}; it has {", ".join(FORMATS[kind].dtypes)}.'
        )
    found = restore(workdir, step)
    subject = subject_of(found, workdir, tower)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', suffix='.part', dir=out.parent))
    except OSError as error:
        raise UserError(f'{out} cannot be written ({error}). Give another with --out.') from error
    try:
        FORMATS[kind].write(subject, part, dtype)
        agreements = compare(subject, FORMATS[kind].read(subject, part), dtype)
        text = card.write(
            subject, kind, dtype, agreements, out.name, FORMATS[kind].use(subject, out.name)
        )
        (part / 'README.md').write_text(text, encoding='utf-8')
        part.chmod(0o755)
        part.replace(out)
    except Mismatch as error:
        print(f'mural: the export was removed: {error}.')
        return 1
    except OSError as error:
        raise UserError(
            f'{out} cannot be written ({error}). Make room, or give another.'
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for one in agreements:
        print(
            f'{one.tower}: cosine with the trainer of {one.examples} examples at least '
            f'{one.lowest:.6f}, mean {one.mean:.6f}'
        )
    print(f'step {found.step} is exported to {out}')
    return 0


def subject_of(found: Restored, workdir: Path, tower: str | None) -> Subject:
    """The model of a run, with examples from its search index."""
    described = about(found.run, found.tokenizer.vocab_size, tower)
    _, params, statistics = found.embedder.model
    _, wanted, wanted_statistics = abstract(described.model, described.spaces, described.vocab_size)
    return Subject(
        about=described, params=among(params, wanted),
        statistics=among(statistics, wanted_statistics), tokenizer=found.tokenizer,
        examples=_examples(found, workdir, next(iter(described.spaces))), workdir=workdir.name,
        step=found.step, config=read_config(workdir), scores=_scores(workdir, found.step),
    )  # fmt: skip


def _examples(found: Restored, workdir: Path, space: str) -> Examples:
    path = workdir / 'index' / f'{found.step}.npz'
    if not path.exists():
        raise UserError(
            f'There is no index {path}, whose pictures and texts prove an export. Run `mural '
            'evaluate` for this step first.'
        )
    index = Index.load(path)
    check_vocabulary(index.vocabulary, found.tokenizer.hash, workdir)
    # From all over the index, and from all languages.
    chosen = np.linspace(0, len(index.pngs) - 1, min(PICTURES, len(index.pngs))).astype(int)
    texts = list(dict.fromkeys(text for i in chosen for text in index.names[i].values()))
    texts = texts[:: max(1, len(texts) // TEXTS)][:TEXTS]
    image_ND = index.image_ND[chosen]
    if index.task != space:
        raise UserError(f'{path} is in the space {index.task}, not in {space}. Evaluate again.')
    return Examples(
        space, [index.pngs[i] for i in chosen], image_ND, texts, found.embedder.texts(space, texts)
    )


def _scores(workdir: Path, step: int) -> dict[str, Any]:
    path = workdir / 'eval' / f'{step}.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
