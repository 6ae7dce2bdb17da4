"""What is exported: a model at a checkpoint, and examples with the embeddings that it gives."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mural_jax.data.tokenizer import Tokenizer
from mural_jax.inference.model import About, Space
from mural_jax.inference.pictures import squares
from mural_jax.models.functional import Params
from mural_jax.runs.run import Run
from mural_jax.types import UserError

TOWERS = ('image', 'text')
Call = Callable[[np.ndarray], Any]
UNUSED = ('teacher',)  # towers that only training needs


class Examples(NamedTuple):
    """Pictures as files hold them and texts, with the trainer's embeddings in `space`."""

    space: str
    pictures: Sequence[bytes]
    image_ND: np.ndarray
    texts: Sequence[str]
    text_ND: np.ndarray


@dataclasses.dataclass(frozen=True)
class Subject:
    """A model on its way out.

    params, statistics: nested dicts of arrays, as the model of `about` takes them. workdir, step,
    config, scores: where it comes from, for the card; scores as `eval/STEP.json` has them.
    """

    about: About
    params: Params
    statistics: Params
    tokenizer: Tokenizer
    examples: Examples
    workdir: str
    step: int
    config: Mapping[str, Any]
    scores: Mapping[str, Any]

    @property
    def vocabulary(self) -> bytes:
        """Its file."""
        return self.tokenizer.model

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    @property
    def towers(self) -> list[str]:
        """Those that leave the trainer."""
        return [tower for tower in TOWERS if tower in self.about.spaces[self.space].towers]

    @property
    def space(self) -> str:
        """The one that is meant where none is named."""
        return next(iter(self.about.spaces))


def prepared(
    subject: Subject, calls: Mapping[str, Call]
) -> dict[str, Callable[[Sequence], np.ndarray]]:
    """Encoders of examples from programs that take uint8 [N, H, H, 3] or tokens."""
    about = subject.about

    def images(pictures: Sequence) -> np.ndarray:
        image_NHHC = squares(list(pictures), about.image_size, about.resize)
        return np.asarray(calls['image'](image_NHHC))

    def texts(given: Sequence) -> np.ndarray:
        return np.asarray(calls['text'](subject.tokenizer(list(given), about.text_length)))

    return {'image': images, 'text': texts}


def about(run: Run, vocab_size: int, tower: str | None) -> About:
    """The description of a run's model, or of one tower of it.

    Raises UserError where a picture alone is not enough for it, or the tower stands in no space.
    """
    regions = run.regions
    if regions and (regions.by != 'patches' or run.tags):
        raise UserError(
            'This model takes regions or tags that a picture alone does not have. Only models '
            "whose pictures are cut into patches (regions.by='patches') can be exported."
        )
    if regions and run.image_size % regions.side:
        raise UserError(
            f'Pictures of {run.image_size} pixels are no whole number of patches of '
            f'{regions.side}: such a model cannot be exported.'
        )
    first = run.paired_tasks + [name for name in run.contrasts if name not in run.paired_tasks]
    spaces = {
        name: Space(_chosen(task.towers, tower), task.temperature, task.bias)
        for name in first for task in [run.contrasts[name]] if _chosen(task.towers, tower)
    }  # fmt: skip
    if not spaces:
        which = f' of the tower {tower!r}' if tower else ''
        raise UserError(f'No task of this run compares embeddings{which}: nothing can be exported.')
    return About(
        model=_model(run, tower), spaces=spaces, vocab_size=vocab_size,
        tokenizer=dataclasses.replace(run.tokenizer, path=''), text_length=run.text_length,
        image_size=run.image_size, resize=run.image_resize, regions=regions,
    )  # fmt: skip


def _chosen(towers: Sequence[str], tower: str | None) -> tuple[str, ...]:
    return tuple(own for own in towers if own in TOWERS and tower in (None, own))


def _model(run: Run, tower: str | None) -> dict[str, Any]:
    """The node of the config, without towers that are not needed; attention on any device."""
    node = {**run.model, 'attention': 'xla'}
    alone = tower if run.model['kind'] == 'dual_encoder' else None
    node['towers'] = {
        name: own for name, own in node['towers'].items()
        if name not in UNUSED and alone in (None, name)
    }  # fmt: skip
    if alone and 'heads' in node:
        node['heads'] = {name: own for name, own in node['heads'].items() if name == alone}
    return node


def among(tree: Params, wanted: Params) -> Params:
    """The leaves of a tree that another has too."""
    return {
        key: among(tree[key], value) if isinstance(value, dict) else tree[key]
        for key, value in wanted.items()
    }
