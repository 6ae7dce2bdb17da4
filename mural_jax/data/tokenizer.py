"""SentencePiece: a unigram vocabulary with byte fallback, so that no text is unreadable.

Needs neither TensorFlow nor JAX: what is served uses it as it is.
"""

import hashlib
import io
import os
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import sentencepiece

from mural_jax.types import PAD, UserError


class Tokenizer:
    """Text -> token ids, by a vocabulary whose hash names it."""

    def __init__(self, model: bytes):
        self.model = model
        self.hash = hashlib.sha256(model).hexdigest()[:16]
        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size: int = self._pieces.get_piece_size()

    @classmethod
    def load(cls, path: Path) -> 'Tokenizer':
        """Raises UserError where there is no vocabulary at `path`, or not a readable one."""
        try:
            return cls(path.read_bytes())
        except FileNotFoundError as error:
            raise UserError(
                f'No vocabulary at {path}. Texts cannot be read without it: '
                'run `mural prepare` with the same --config and --data_dir first.'
            ) from error
        except RuntimeError as error:
            raise UserError(f'{path} is not a SentencePiece model ({error}).') from error

    def save(self, path: Path) -> None:
        """Writes the model, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.name}.{os.getpid()}.part')
        part.write_bytes(self.model)
        part.rename(path)

    def __call__(self, texts: list[str], max_length: int) -> np.ndarray:
        """Token ids, int32 [len(texts), max_length], cut at the end and padded with 0."""
        text_BL = np.full((len(texts), max_length), PAD, np.int32)
        for row, ids in zip(text_BL, self._pieces.encode(texts, num_threads=1)):
            ids = ids[:max_length]
            row[: len(ids)] = ids
        return text_BL


def normalise(text: str) -> str:
    """What two texts share that count as one: NFKC, case folded, spaces collapsed."""
    return ' '.join(unicodedata.normalize('NFKC', text).casefold().split())


def text_ids(texts: list[str]) -> np.ndarray:
    """An id of each normalised text, int32 [len(texts)]; different texts meet once in 2^31."""
    return np.array([zlib.crc32(normalise(text).encode()) >> 1 for text in texts], np.int32)


def train(texts: Iterable[str], vocab_size: int, character_coverage: float) -> Tokenizer:
    """A vocabulary of at most `vocab_size` pieces, 256 of them bytes.

    `character_coverage` in (0, 1] is the share of characters that get a piece of their own;
    the others are spelled in bytes. Texts are NFKC-normalised and case-folded.
    Raises UserError where `vocab_size` does not fit the texts.
    """
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts), model_writer=model, vocab_size=vocab_size,
            model_type='unigram', byte_fallback=True, character_coverage=character_coverage,
            normalization_rule_name='nmt_nfkc_cf', hard_vocab_limit=False,
            pad_id=PAD, unk_id=1, bos_id=-1, eos_id=-1, num_threads=2, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise UserError(
            f'No vocabulary of {vocab_size} pieces can be trained on these texts ({error}). '
            'Change config.tokenizer.vocab_size.'
        ) from error
    return Tokenizer(model.getvalue())
