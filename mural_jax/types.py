"""The words every module speaks: shapes, batches, encodings, and errors for the user.

Letters in tensor names. Where a letter has several meanings, the word before it decides.

    B  examples of a batch
    C  channels of an image; classes; candidates
    D  numbers of an embedding
    F  numbers of a region, or of its feature
    G  numbers of a region's geometry; examples of a group; members of a pool; recurrent gates
    H  height of an image, or width where it is square; numbers of a recurrent state
    I  ids of an example; items that a bootstrap draws
    J  stored texts that are joined to one
    K  nearest results that are kept; cluster centres; kinds of texts; low frequencies
    L  tokens of a text or an encoding; languages
    M  hidden places of an example; records or results of a part; tokens of a result; a second N
    N  any number of rows: ids of an example, embeddings, slots of a block
    P  places; pairs
    Q  queries
    R  results; regions of an image; records
    S  side of a square in pixels; sources that are mixed; draws of a bootstrap; segments of BERT
    T  texts; a tile
    U  random numbers of an example; distinct texts or hashes
    V  tokens of a vocabulary
    W  width of an image
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

Array = Any  # A jax or a numpy array; this module needs neither jax nor flax.

# A batch of one stream. Inputs are named by field: an image is uint8 [B, H, W, C], a text is
# int32 [B, L] (0 is padding). 'ids' is int32 [B, N]: two examples that share an id are never
# each other's negatives. 'origin' is int32 [B], an index into the stream's labels. In a step
# 'index' is int32 [B], the place in the global batch.
Batch = Mapping[str, Array]

Tree = Any  # Nested tuples and dicts of arrays.

PAD = 0  # The token id of padding.

RESTART = 75  # The exit code that asks for the same command again (EX_TEMPFAIL of sysexits.h).


class UserError(ValueError):
    """The user gave something wrong: the message says what, why it matters and what to do."""


class Restart(Exception):
    """The run stopped where the same command goes on: a signal came, or a worker was lost."""


class Encoding(NamedTuple):
    """What every encoder returns: an example as one vector, and its tokens."""

    pooled_BD: Array
    tokens_BLD: Array
    mask_BL: Array  # bool, True where a token is real
