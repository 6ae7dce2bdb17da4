"""From stored examples to the arrays of a batch: parsed, decoded, tokenised, in TensorFlow."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from mural_jax.data.fields.texts import hash_ids, join_texts
from mural_jax.data.reading.substitutes import Substitutes
from mural_jax.data.sets.schema import parse_examples
from mural_jax.data.streams.base import DrawnExamples, ReadingContext, Stream
from mural_jax.data.tokenizer import Tokenizer, hash_texts

ID = 'id'  # the field of stored examples' ids, until `tokenise` makes them a column of `ids`


class BatchAssembler:
    """Makes batches of one stream from what the stream draws.

    Its methods run as a graph inside tf.data, and eagerly where a broken example is looked for.
    They take the arrays of a batch in one flat list, as TensorFlow passes them:

        serialized examples of each record of an example, string [B], `num_records` of them;
        numbers of the stored texts of each text, int64 [B, J], `num_numbers` of them;
        index of each example's label, int32 [B];
        random numbers, float32 [B, U].
    """

    def __init__(
        self,
        stream: Stream,
        tokenizer: Tokenizer,
        fitted: Mapping[str, Any],
        num_joined: int,
        substitutes: Substitutes | None,
    ):
        """`num_joined` is J; `substitutes` replaces words for the stream's negative texts."""
        self._stream, self._tokenizer = stream, tokenizer
        self._fields = stream.fields()
        self._num_joined, self._substitutes = num_joined, substitutes
        # Padding may be a special token that a text ends with, too.
        special_ids = tuple(sorted({tokenizer.pad_id, *tokenizer.special_ids}))
        self._context = ReadingContext(special_ids, tokenizer.vocab_size, fitted)

    @property
    def num_records(self) -> int:
        """Stored examples that are read for one example."""
        return 2 if self._stream.shuffle_pairs or self._stream.has_partner else 1

    @property
    def num_numbers(self) -> int:
        """Texts that are chosen for one example: its own, its partner's, and the tags of both."""
        members = 1 + self._stream.has_partner
        return self._stream.num_texts + members - 1 + (members if self._stream.tags else 0)

    def array_types(self) -> list[tf.DType]:
        """The types of the arrays that a batch is made from."""
        kinds = [tf.string] * self.num_records + [tf.int64] * self.num_numbers
        return [*kinds, tf.int32, tf.float32]

    def set_shapes(self, arrays: Sequence[tf.Tensor], size: int) -> None:
        """Tells TensorFlow the shapes of the arrays of a batch of `size` examples.

        It knows none of what a Python function returns, and decoding needs the batch size.
        """
        shapes = [[size]] * self.num_records + [[size, self._num_joined]] * self.num_numbers
        shapes += [[size], [size, self._stream.num_random]]
        for array, shape in zip(arrays, shapes, strict=True):
            array.set_shape(shape)

    def assemble(self, arrays: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """The fields of a batch, with `ids` int32 [B, N] and `origin` int32 [B]."""
        # What is hidden of a text is hidden of its tokens, so the stream has a second turn.
        fields = self.tokenise(self.make_strings(arrays))
        fields = self._stream.finish_fields(fields, arrays[-1], self._context)
        return fields | {'origin': arrays[-2]}

    def make_strings(self, arrays: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """The fields of a batch and the hashes of its ids; texts are strings."""
        drawn = self._parse(arrays)
        fields = self._stream.make_fields(drawn)
        for name, field in self._fields.items():
            if field.role == 'text' and field.negative_of:
                assert self._substitutes is not None, 'made for streams with negative texts'
                own_B = fields[field.negative_of]
                given = [own_B, drawn.random_BU[:, 0]]
                swapped_B = tf.numpy_function(self._substitutes.replace_batch, given, tf.string)
                fields[name] = tf.ensure_shape(swapped_B, own_B.shape)
        return fields | {ID: hash_ids(drawn.stored['id'])}

    def tokenise(self, fields: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """The fields with texts as token ids, and all ids of an example in one array, `ids`."""

        def tokens(text_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            texts = [text.decode(errors='replace') for text in text_B]
            return self._tokenizer(texts, self._stream.max_length), hash_texts(texts)

        ids = [fields.pop(ID)]
        for name, value in fields.items():
            if value.dtype == tf.string:
                fields[name], text_id_B = tf.numpy_function(tokens, [value], [tf.int32, tf.int32])
                fields[name].set_shape([value.shape[0], self._stream.max_length])
                # Two examples with the same tags, or the same negative, may well differ.
                field = self._fields[name]
                if field.role == 'text' and not field.negative_of:
                    ids.append(text_id_B)
        return fields | {'ids': tf.stack(ids, axis=1)}

    def _parse(self, arrays: list[tf.Tensor]) -> DrawnExamples:
        """The arrays of a batch as drawn examples, and their partners where there are some."""
        stream = self._stream
        serialized, numbers = arrays[: self.num_records], arrays[self.num_records : -2]
        parsed = [parse_examples(serialized[0], *stream.stored_columns)]
        parsed += [parse_examples(other_B, *stream.partner_columns) for other_B in serialized[1:]]
        # The second text of a shuffled pair stands in the second record.
        of_text = [parsed[min(side, len(parsed) - 1)] for side in range(stream.num_texts)]
        if stream.has_partner:
            of_text.append(parsed[1])
        if stream.tags:
            of_text += parsed
        # In the order of `numbers`: the example's texts, its partner's, the tags of both.
        texts = [
            join_texts(one['text'], number_BJ)
            for one, number_BJ in zip(of_text, numbers, strict=True)
        ]
        own, rest = texts[: stream.num_texts], texts[stream.num_texts :]
        partner, random_BU = None, arrays[-1]
        tags = rest[stream.has_partner :] if stream.tags else [None, None]
        if stream.has_partner:
            partner = DrawnExamples(parsed[1], rest[:1], random_BU, tags[1])
        return DrawnExamples(parsed[0], own, random_BU, tags[0], partner)
