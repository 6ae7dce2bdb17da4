"""Writing an export: a folder for other tools that is checked before it is in place."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.exports import card
from mural_jax.exports.catalog import FORMATS
from mural_jax.exports.parity import Agreement, check_parity
from mural_jax.exports.trained import Examples, TrainedModel, describe_model, select_leaves
from mural_jax.models.build import abstract_model
from mural_jax.runs.image_index import index_path, load_run_index
from mural_jax.runs.restore import Restored, restore
from mural_jax.types import UserError
from mural_jax.workdir.files import read_config

# The most examples that a check encodes (ours).
MAX_IMAGES, MAX_TEXTS = 64, 256


def export_checkpoint(
    workdir: Path, step: int | None, name: str, out: Path, dtype: str, tower: str | None
) -> tuple[int, list[Agreement]]:
    """Writes the folder `out` in the format `name`, whole or not at all.

    Args:
      workdir: The run.
      step: The checkpoint; None for the newest.
      name: A key of FORMATS.
      out: A folder that is empty or does not exist.
      dtype: How the weights are stored, one of the format's dtypes.
      tower: The only tower to export; None for all.

    Returns:
      The step, and how well each tower agrees with the trainer.

    Raises:
      Mismatch: If the export does not give the trainer's embeddings; nothing is written.
      UserError: If the arguments do not fit, or `out` cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f'{out} is there already. Give a new or an empty folder with --out.')
    if dtype not in FORMATS[name].dtypes:
        raise UserError(
            f'--format={name} has no {dtype}; it has {", ".join(FORMATS[name].dtypes)}.'
        )
    restored = restore(workdir, step)
    source = collect_model(restored, workdir, tower)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f'.{out.name}.', suffix='.part', dir=out.parent))
    except OSError as error:
        raise UserError(f'{out} cannot be written ({error}). Give another with --out.') from error
    try:
        FORMATS[name].write(source, part, dtype)
        # The format's own runtime reads the folder as its users will.
        agreements = check_parity(source, FORMATS[name].read(source, part), dtype)
        usage = FORMATS[name].describe_usage(source, out.name)
        text = card.render_card(source, name, dtype, agreements, out.name, usage)
        (part / 'README.md').write_text(text, encoding='utf-8')
        part.chmod(0o755)  # mkdtemp lets nobody else read the folder.
        part.replace(out)
    except OSError as error:
        raise UserError(
            f'{out} cannot be written ({error}). Make room, or give another.'
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return restored.step, agreements


def collect_model(restored: Restored, workdir: Path, tower: str | None) -> TrainedModel:
    """Returns the model of a run, with examples from its image index."""
    description = describe_model(restored.run, restored.tokenizer.vocab_size, tower)
    _, params, statistics = restored.embedder.model
    _, params_structure, statistics_structure = abstract_model(
        description.model, description.spaces, description.vocab_size
    )
    return TrainedModel(
        description=description,
        params=select_leaves(params, params_structure),
        statistics=select_leaves(statistics, statistics_structure),
        tokenizer=restored.tokenizer,
        examples=_choose_examples(restored, workdir, next(iter(description.spaces))),
        workdir=workdir.name,
        step=restored.step,
        config=read_config(workdir),
        scores=_read_scores(workdir, restored.step),
    )


def _choose_examples(restored: Restored, workdir: Path, space: str) -> Examples:
    """Returns images and texts of the run's index.

    Raises UserError if there is no index, or if it is in another space.
    """
    path = index_path(workdir, restored.step)
    if not path.exists():
        raise UserError(
            f'There is no index {path}. Its images and texts are needed to check the export. Run '
            '`mural evaluate` for this step first.'
        )
    index = load_run_index(workdir, restored)
    # Spread over the whole index, so that examples come from all its splits and languages.
    numbers = np.linspace(0, len(index.rows) - 1, min(MAX_IMAGES, len(index.rows))).astype(int)
    texts = list(dict.fromkeys(text for i in numbers for text in index.names[i].values()))
    texts = texts[:: max(1, len(texts) // MAX_TEXTS)][:MAX_TEXTS]
    if index.space != space:
        raise UserError(f'{path} is in the space {index.space}, not in {space}. Evaluate again.')
    images = [index.read_image(i) for i in numbers]
    text_ND = restored.embedder.embed_texts(space, texts)
    return Examples(space, images, index.image_ND[numbers], texts, text_ND)


def _read_scores(workdir: Path, step: int) -> dict[str, Any]:
    """Returns the content of `eval/STEP.json`; empty if the checkpoint was not scored."""
    path = workdir / 'eval' / f'{step}.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}
