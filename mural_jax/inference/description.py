"""Description of an exported model: the file mural.json of its folder."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mural_jax.config.build import lists_to_tuples
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.tokenizer import Vocabulary
from mural_jax.models.spaces import Space
from mural_jax.types import UserError

WEIGHTS, VOCABULARY, DESCRIPTION = 'model.safetensors', 'vocabulary', 'mural.json'
FOLDER_LAYOUT = 2  # version of the folder's layout; no other can be read


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelDescription:
    """Everything about a model but its weights and the file of its vocabulary.

    model: the config's node `model`.
    spaces: by name; the first is the default space.
    tokenizer, vocab_size: how the vocabulary is read, and its number of tokens.
    text_length: most tokens of a text.
    image_size: height and width of an image in pixels, as the model takes it.
    resize: height and width to which an image is resized before its middle is cropped.
    regions: how an image becomes patches; None for a model that takes whole images.
    """

    model: Mapping[str, Any]
    spaces: Mapping[str, Space]
    tokenizer: Vocabulary
    vocab_size: int
    text_length: int
    image_size: int
    resize: int
    regions: RegionSettings | None = None
    layout: int = FOLDER_LAYOUT

    @classmethod
    def read(cls, folder: Path) -> 'ModelDescription':
        """Returns the description in a folder.

        Raises UserError if the folder holds no exported model, or one of another layout.
        """
        path = folder / DESCRIPTION
        try:
            document = json.loads(path.read_text(encoding='utf-8'))
            if document['layout'] != FOLDER_LAYOUT:
                raise UserError(
                    f'{path} has layout {document["layout"]}; this version reads {FOLDER_LAYOUT}. '
                    'Export the model again, or use the version of mural_jax that exported it.'
                )
            fields = lists_to_tuples(document)  # JSON's lists become tuples, as in a config.
            fields['spaces'] = {name: Space(**space) for name, space in fields['spaces'].items()}
            fields['tokenizer'] = Vocabulary(**fields['tokenizer'])
            fields['regions'] = fields['regions'] and RegionSettings(**fields['regions'])
            return cls(**fields)
        except FileNotFoundError as error:
            raise UserError(
                f'{folder} holds no exported model: it has no {DESCRIPTION}. '
                '`mural export --format=safetensors` makes one.'
            ) from error
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(
                f'{path} cannot be read ({error!r}). Export the model again.'
            ) from error

    def input_shape(self, tower: str, count: Any) -> jax.ShapeDtypeStruct:
        """Returns the shape of `count` images, or of `count` texts as tokens.

        count: a number, None, or a symbolic dimension of `jax.export`.
        """
        if tower == 'text':
            return jax.ShapeDtypeStruct((count, self.text_length), np.int32)
        return jax.ShapeDtypeStruct((count, self.image_size, self.image_size, 3), np.uint8)

    def to_json(self) -> str:
        """Returns the text of the file that `read` takes."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=False) + '\n'
