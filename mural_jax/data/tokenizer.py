"""Vocabularies: a SentencePiece model trained on the run's own texts, or a published vocabulary.

Needs neither TensorFlow nor JAX, so that serving can use it as it is.
"""

import dataclasses
import hashlib
import io
import os
import string
import unicodedata
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mural_jax.types import PAD, UserError


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The settings of the vocabulary that a run reads texts with.

    vocab_size: number of token ids of the text tower; a vocabulary that is trained has at most
    so many.
    kind: 'sentencepiece' for a trained one; 'xlm_r' and 'siglip' for the SentencePiece models of
    these published weights; 'tokenizers' for a `tokenizer.json` of Hugging Face (BERT, CLIP and
    most others).
    path: file of a published vocabulary; empty trains one on the texts of the streams.
    character_coverage: share of characters that get a piece of their own when a vocabulary is
    trained, in (0, 1].
    byte_fallback: spells other characters in bytes; without it they are unknown.
    sample: largest number of texts that training reads, 0 for all.
    sample_alpha: n texts of a language are sampled as n^sample_alpha (XLM-R's 0.3,
    arXiv:1911.02116, section 3.1).
    bos, eos: whether texts begin and end with a special token; only for kind 'sentencepiece'.
    """

    vocab_size: int
    kind: str = 'sentencepiece'
    path: str = ''
    character_coverage: float = 0.9995
    byte_fallback: bool = True
    sample: int = 10_000_000
    sample_alpha: float = 0.3
    bos: bool = False
    eos: bool = False

    def __post_init__(self) -> None:
        if self.kind not in TOKENIZERS:
            raise UserError(f'No vocabulary {self.kind!r}; there are {sorted(TOKENIZERS)}.')
        if self.kind != 'sentencepiece' and (self.bos or self.eos):
            raise UserError(
                f'config.tokenizer: a vocabulary of kind {self.kind!r} has its own special '
                'tokens, so bos and eos must be False.'
            )


class Tokenizer:
    """Turns texts into token ids and back.

    model: content of the vocabulary's file. hash: names the vocabulary by its content.
    vocab_size: number of ids. pad_id: id of padding. eos_id: id of the end of a text, -1 for
    none. special_ids: ids besides padding that are no words.
    """

    vocab_size: int
    pad_id: int = PAD
    eos_id: int = -1
    special_ids: tuple[int, ...] = ()

    def __init__(self, model: bytes):
        self.model = model
        self.hash = hashlib.sha256(model).hexdigest()[:16]

    @staticmethod
    def load(path: Path, settings: Vocabulary) -> 'Tokenizer':
        """The tokenizer of a file. Raises UserError where there is none that can be read."""
        try:
            return TOKENIZERS[settings.kind](path.read_bytes(), settings)
        except FileNotFoundError as error:
            raise UserError(
                f'No vocabulary at {path}. Texts cannot be read without it: '
                'run `mural prepare` with the same --config and --data_dir first.'
            ) from error
        except UserError:
            raise
        except OSError as error:
            raise UserError(f'Cannot read the vocabulary {path} ({error.strerror}).') from error
        except (RuntimeError, UnicodeDecodeError, ValueError) as error:
            raise UserError(f'{path} is not a vocabulary of this kind ({error}).') from error

    def save(self, path: Path) -> None:
        """Writes the model, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        # Renamed into place, so that a file that exists is whole.
        part = path.with_name(f'{path.name}.{os.getpid()}.part')
        part.write_bytes(self.model)
        part.rename(path)

    def __call__(self, texts: list[str], max_length: int) -> np.ndarray:
        """Token ids, int32 [len(texts), max_length], cut at the end and padded with `pad_id`."""
        text_BL = np.full((len(texts), max_length), self.pad_id, np.int32)
        for row, ids in zip(text_BL, self.encode(texts, max_length)):
            row[: len(ids)] = ids
        return text_BL

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        """The ids of each text with its special tokens, at most `max_length` of them."""
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, without padding and special tokens."""
        raise NotImplementedError

    def is_unknown(self, token: int) -> bool:
        """Whether a token stands for something that the vocabulary has no piece for."""
        return False


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece model. Where a long text is cut, its last special token stays.

    start_ids, end_ids: special tokens that begin and end each text.
    """

    start_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()

    def __init__(self, model: bytes, settings: Vocabulary):
        super().__init__(model)
        import sentencepiece  # Only here: a step is planned and measured without.

        self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.set_ids(settings)

    def set_ids(self, settings: Vocabulary) -> None:
        """Sets the size and the special tokens. Raises ValueError where the model lacks some."""
        self.vocab_size = self._pieces.get_piece_size()
        bos_id, eos_id = self._pieces.bos_id(), self._pieces.eos_id()
        if (settings.bos and bos_id < 0) or (settings.eos and eos_id < 0):
            raise ValueError('it has no special tokens for the start and the end of a text')
        self.start_ids = (bos_id,) if settings.bos else ()
        self.end_ids = (eos_id,) if settings.eos else ()
        self.special_ids = (*self.start_ids, *self.end_ids)
        self.eos_id = eos_id

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        # Only pieces are cut off; the special tokens of a long text stay.
        room = max_length - len(self.start_ids) - len(self.end_ids)
        pieces = self._pieces.encode([self.clean_text(text) for text in texts], num_threads=1)
        return [
            [*self.start_ids, *map(self.piece_to_id, ids[:room]), *self.end_ids] for ids in pieces
        ]

    def decode(self, ids: Iterable[int]) -> str:
        # The end of a text may be its padding too, as SigLIP's is.
        special = {self.pad_id, *self.special_ids}
        return self._pieces.decode([self.id_to_piece(int(i)) for i in ids if i not in special])

    def is_unknown(self, token: int) -> bool:
        # SentencePiece refuses ids beyond its pieces, such as the mask of hidden words.
        known = 0 <= token < self._pieces.get_piece_size()
        return known and (self._pieces.is_unknown(token) or self._pieces.is_byte(token))

    def clean_text(self, text: str) -> str:
        """The text as the model was trained on it."""
        return text

    def piece_to_id(self, piece: int) -> int:
        """The token id of a piece of the model."""
        return piece

    def id_to_piece(self, token: int) -> int:
        """The piece of the model that a token id stands for."""
        return token


class XlmRTokenizer(SentencePieceTokenizer):
    """XLM-R's ids: those of its SentencePiece model plus one, after <s> <pad> </s> <unk>."""

    start_ids, end_ids = (0,), (2,)
    pad_id, eos_id = 1, 2
    special_ids = (0, 2)

    def set_ids(self, settings: Vocabulary) -> None:
        # Two more ids than pieces: <pad>, and <mask> at the end.
        self.vocab_size = self._pieces.get_piece_size() + 2

    def piece_to_id(self, piece: int) -> int:
        # Piece 0 is the unknown one; pieces 1 and 2 are <s> and </s>, which no text contains.
        return piece + 1 if piece else 3

    def id_to_piece(self, token: int) -> int:
        return token - 1 if token > 3 else 0

    def is_unknown(self, token: int) -> bool:
        return token == 3


class SiglipTokenizer(SentencePieceTokenizer):
    """SigLIP's ids: texts are lower case without punctuation, and </s> ends and pads them."""

    end_ids = (1,)
    pad_id = eos_id = 1
    special_ids = (1,)

    def set_ids(self, settings: Vocabulary) -> None:
        self.vocab_size = self._pieces.get_piece_size()

    def clean_text(self, text: str) -> str:
        text = text.translate(_NO_PUNCTUATION)
        return ' '.join(text.lower().split())


_NO_PUNCTUATION = str.maketrans('', '', string.punctuation)


class HuggingFaceTokenizer(Tokenizer):
    """A `tokenizer.json`, with the special tokens that it adds itself."""

    def __init__(self, model: bytes, settings: Vocabulary):
        super().__init__(model)
        try:
            import tokenizers
        except ImportError as error:
            raise UserError(
                "config.tokenizer.kind='tokenizers' needs the package tokenizers: "
                "pip install 'mural-jax[tokenizers]'."
            ) from error
        try:
            self._pieces = tokenizers.Tokenizer.from_str(model.decode())
        except Exception as error:  # The package raises bare exceptions.
            raise ValueError(str(error)) from error
        # `__call__` pads: the file may ask for padding to another length.
        self._pieces.no_padding()
        self.vocab_size = self._pieces.get_vocab_size()
        self.pad_id = self._find_id('[PAD]', '<pad>', default=PAD)
        self.eos_id = self._find_id('<|endoftext|>', '[SEP]', '</s>', default=-1)
        # An empty text has nothing but special tokens.
        self.special_ids = tuple(dict.fromkeys(self._pieces.encode('').ids))

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        self._pieces.enable_truncation(max_length)
        return [encoding.ids for encoding in self._pieces.encode_batch(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        return self._pieces.decode([int(i) for i in ids if i != self.pad_id])

    def _find_id(self, *names: str, default: int) -> int:
        """The id of the first of these tokens that the vocabulary has."""
        ids = [self._pieces.token_to_id(name) for name in names]
        return next((token for token in ids if token is not None), default)


TOKENIZERS = {
    'sentencepiece': SentencePieceTokenizer,
    'xlm_r': XlmRTokenizer,
    'siglip': SiglipTokenizer,
    'tokenizers': HuggingFaceTokenizer,
}


def normalise_text(text: str) -> str:
    """The form in which two texts count as the same: NFKC, case folded, spaces collapsed."""
    return ' '.join(unicodedata.normalize('NFKC', text).casefold().split())


def hash_texts(texts: list[str]) -> np.ndarray:
    """An id of each normalised text, int32 [len(texts)]; two texts share one once in 2^31."""
    # Shifted, since int32 holds 31 bits without the sign.
    return np.array([zlib.crc32(normalise_text(text).encode()) >> 1 for text in texts], np.int32)


def train_vocabulary(texts: Iterable[str], settings: Vocabulary) -> Tokenizer:
    """A vocabulary of at most `vocab_size` pieces; with `byte_fallback`, 256 of them are bytes.

    Texts are NFKC-normalised and case-folded. Raises UserError where `vocab_size` does not fit the
    texts.
    """
    import sentencepiece

    model = io.BytesIO()
    # After padding and the unknown token come the special tokens that the settings ask for.
    bos_id = 2 if settings.bos else -1
    eos_id = (3 if settings.bos else 2) if settings.eos else -1
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=settings.vocab_size,
            model_type='unigram',
            byte_fallback=settings.byte_fallback,
            character_coverage=settings.character_coverage,
            normalization_rule_name='nmt_nfkc_cf',
            # Few texts have fewer pieces than asked for, which is no error.
            hard_vocab_limit=False,
            pad_id=PAD,
            unk_id=1,
            bos_id=bos_id,
            eos_id=eos_id,
            num_threads=2,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(
            f'No vocabulary of {settings.vocab_size} pieces can be trained on these texts '
            f'({error}). Change config.tokenizer.vocab_size.'
        ) from error
    return SentencePieceTokenizer(model.getvalue(), settings)
