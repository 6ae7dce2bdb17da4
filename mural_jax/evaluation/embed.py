"""Embeds many images or texts with the model of a run, in equal batches over all devices."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mural_jax.distributed.mesh import find_rows, gather, make_global_batch
from mural_jax.evaluation.split_data import SplitExamples
from mural_jax.models.functional import Params, merge
from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.types import Array, Batch, Tree, UserError

PAIRS = 512  # pairs of a text and an image in one joint pass (ours)


class ModelEmbedder:
    """Embeds with the model of a run; a model of one stream also scores and completes pairs.

    It satisfies `split_data.JointEmbedder`, which says what an embedding is.
    """

    def __init__(
        self,
        graphdef: Any,
        params: Params,
        statistics: Params,
        tokenize: Callable[[list[str]], np.ndarray],
        batch_size: int = 256,
        mesh: Mesh | None = None,
    ):
        """Keeps the model and the way to run it.

        Args:
          graphdef, params, statistics: the model, as `models.functional.split` returns it.
          tokenize: N texts -> int32 [N, L].
          batch_size: examples in one pass; rounded up to a multiple of the devices.
          mesh: the mesh that holds the parameters, each of whose devices and processes embeds a
            part of every batch; None for one device.
        """
        self.model = graphdef, params, statistics
        self.tokenize, self.mesh = tokenize, mesh
        # Every device must get the same number of rows of a batch.
        parts = mesh.shape['data'] * mesh.shape['fsdp'] if mesh else 1
        self.batch_size = -(-batch_size // parts) * parts
        self._parts = parts

    def embed_images(self, space: str, examples: SplitExamples) -> Tree:
        """Returns what the space compares of the examples' images, decoded batch by batch."""
        return self._embed(space, 'image', examples.decode, len(examples.pngs))

    def embed_decoded(self, space: str, visual: Any) -> Tree:
        """Returns what the space compares of images that are already model input.

        visual: images, uint8 [N, H, W, 3]; regions, float32 [N, R, F]; or (tags, int32 [N, L],
        regions).
        """

        def part(start: int, stop: int) -> Any:
            return jax.tree.map(lambda array: array[start:stop], visual)

        return self._embed(space, 'image', part, len(jax.tree.leaves(visual)[0]))

    def embed_texts(self, space: str, texts: list[str]) -> Tree:
        """Returns what the space compares of N texts."""
        return self._embed(space, 'text', lambda a, b: self.tokenize(texts[a:b]), len(texts))

    def match_scores(self, texts: list[str], visual: Any, pair_P2: np.ndarray) -> np.ndarray:
        """Returns float32 [P]: how well the text and the image of each pair match.

        The score is the logit of the matching head over a joint pass. `pair_P2` holds (number of
        the text, number of the image); `visual` is as in `embed_decoded`.
        """
        graphdef, *arrays = self.model
        # Tokenized once, although each text is in many pairs.
        text_NL = self.tokenize(texts)
        score_P = np.empty(len(pair_P2), np.float32)
        for start in range(0, len(pair_P2), PAIRS):
            part = pair_P2[start : start + PAIRS]
            # The last batch repeats its pairs, so that all batches share one compiled program.
            text_B, image_B = np.resize(part, (PAIRS, 2)).T
            image = jax.tree.map(lambda array, rows=image_B: array[rows], visual)
            matched_B = _match(graphdef, *arrays, text_NL[text_B], image)
            score_P[start : start + PAIRS] = np.asarray(matched_B)[: len(part)]
        return score_P

    def hidden_counts(self, batch: Batch) -> dict[str, np.ndarray]:
        """Returns how many hidden words and regions of each example the model predicts.

        {metric: float32 [2, B]}, rows (correct places, predicted places), for `words` and
        `regions`, and with the other side left out `words_without_picture` and
        `regions_without_text`; `match` is float32 [1, B], the matching score of the pair.
        """
        graphdef, *arrays = self.model
        # Ids and origins are for losses and logs; the model takes neither.
        inputs = {name: value for name, value in batch.items() if name not in ('ids', 'origin')}
        counts = _count_hidden(graphdef, *arrays, inputs)
        return {name: np.asarray(value) for name, value in counts.items()}

    def _embed(self, space: str, tower: str, part: Callable[[int, int], Any], count: int) -> Tree:
        """Returns a tree of [N, ...] for `count` inputs, `part(start, stop)` making some of them.

        Each process makes the rows that its devices hold. Raises UserError if an embedding is not
        finite.
        """
        graphdef, *arrays = self.model
        size = self.batch_size
        # Few inputs need no full batch, which would be mostly filling.
        while size // 2 >= count and size % (2 * self._parts) == 0:
            size //= 2
        row_B = find_rows(self.mesh, size) if self.mesh else np.arange(size)
        embedded = []
        for start in range(0, count, size):
            # Copies of the last input fill the last batch.
            filled = _make_rows(part, np.minimum(start + row_B, count - 1))
            if self.mesh:
                with jax.set_mesh(self.mesh):
                    inputs = make_global_batch(filled, self.mesh)
                    vectors = _encode(graphdef, space, tower, *arrays, inputs)
            else:
                vectors = _encode(graphdef, space, tower, *arrays, filled)
            embedded.append(jax.tree.map(np.asarray, vectors))
        represented = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *embedded)
        # NaN compares false with everything: ranks would be wrong without any error.
        finite_N = np.ones(count, bool)
        for array in jax.tree.leaves(represented):
            finite_N &= np.isfinite(array).reshape(count, -1).all(1)
        if not finite_N.all():
            bad = int((~finite_N).sum())
            raise UserError(
                f'{bad} of {count} {tower} embeddings in the space {space} are not finite, so no '
                'score would mean anything. Choose an earlier checkpoint with --step.'
            )
        return represented


def _make_rows(part: Callable[[int, int], Any], place_B: np.ndarray) -> Any:
    """Returns the inputs at places, a tree of [B, ...], of which `part` makes stretches."""
    needed_N, row_B = np.unique(place_B, return_inverse=True)
    stretches = np.split(needed_N, np.flatnonzero(np.diff(needed_N) > 1) + 1)
    parts = [part(int(stretch[0]), int(stretch[-1]) + 1) for stretch in stretches]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays)[row_B], *parts)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _encode(
    graphdef: Any, space: str, tower: str, params: Params, statistics: Params, inputs: Any
) -> Tree:
    model = merge(graphdef, params, statistics)
    return gather(model.represent(space, tower, model.encode(tower, inputs)))


@partial(jax.jit, static_argnums=(0,))
def _match(graphdef: Any, params: Params, statistics: Params, text_BL: Array, image: Any) -> Array:
    model = merge(graphdef, params, statistics)
    return model.matches(model.encode('joint', (text_BL, image)))


@partial(jax.jit, static_argnums=(0,))
def _count_hidden(
    graphdef: Any, params: Params, statistics: Params, batch: Batch
) -> dict[str, Array]:
    """Returns what `ModelEmbedder.hidden_counts` describes."""
    model = merge(graphdef, params, statistics)
    text_BL, region_BRF = batch['text'], batch['regions']
    image = (batch['tags'], region_BRF) if 'tags' in batch else region_BRF
    # Zeros are padding on both sides: the model sees nothing of the side that is left out.
    no_image = jax.tree.map(jnp.zeros_like, image)
    both, without_image, without_text = (
        model.encode('joint', pair)
        for pair in ((text_BL, image), (text_BL, no_image), (0 * text_BL, image))
    )

    def correct(predicted: Predicted) -> Array:
        return jnp.stack([predicted.right_B, predicted.count_B])

    def words(encoding: Any) -> Array:
        logit_BMV = model.words(encoding, batch['word_place'])
        return correct(prediction.classify(logit_BMV, batch['word_target']))

    def regions(encoding: Any) -> Array:
        logit_BMC = model.region_classes(encoding, batch['region_place'], region_BRF.shape[1])
        return correct(prediction.classify(logit_BMC, batch['region_target']))

    return {
        'words': words(both),
        'words_without_picture': words(without_image),
        'regions': regions(both),
        'regions_without_text': regions(without_text),
        'match': model.matches(both)[None],
    }
