"""A vocabulary as a `tokenizer.json`, the format of Hugging Face's libraries."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from google.protobuf import empty_pb2
from google.protobuf.unknown_fields import UnknownFieldSet

from mural_jax.data.tokenizer import SentencePieceTokenizer
from mural_jax.exports.packages import import_package
from mural_jax.exports.trained import TrainedModel
from mural_jax.types import UserError

INSTALL = "pip install 'mural-jax[parity]'"
PUNCTUATION = r'[!-/:-@\[-`{-~]'  # ASCII alone, as in `string.punctuation`
# Texts on which tokenizers tend to differ: spaces, case folding, compatibility characters, scripts
# with combining marks, joined emoji.
EXAMPLES = ['', ' ', 'A  cat ', 'ΟΔΟΣ straße ﬁ ½', 'कुत्ता 犬 🐕‍🦺', 'a\tb\nc', '…!?']


def write_tokenizer(source: TrainedModel, folder: Path) -> None:
    """Writes the vocabulary and its settings.

    Raises UserError if a package is missing, or if the file would read some text differently.
    """
    tokenizers = import_package('tokenizers', INSTALL)
    description = source.description
    if description.tokenizer.kind == 'tokenizers':
        tokenizer = tokenizers.Tokenizer.from_str(source.vocabulary.decode())
    else:
        tokenizer = _convert_sentencepiece(tokenizers, source)
    tokenizer.enable_truncation(description.text_length)
    tokenizer.enable_padding(
        length=description.text_length,
        pad_id=source.pad_id,
        pad_token=tokenizer.id_to_token(source.pad_id),
    )
    texts = [*EXAMPLES, *source.examples.texts]
    expected_NL = source.tokenizer(texts, description.text_length)
    encodings = tokenizer.encode_batch(texts)
    for text, expected_L, encoding in zip(texts, expected_NL, encodings, strict=True):
        if encoding.ids != expected_L.tolist():
            raise UserError(
                f'As a tokenizer.json, this vocabulary reads {text!r} differently: the folder '
                'would give other embeddings. Use --format=safetensors.'
            )
    # The libraries that read the file set both themselves.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.save(str(folder / 'tokenizer.json'))
    (folder / 'tokenizer_config.json').write_text(
        json.dumps(_tokenizer_settings(source, tokenizer), indent=1, ensure_ascii=False) + '\n',
        encoding='utf-8',
    )


def _tokenizer_settings(source: TrainedModel, tokenizer: Any) -> dict[str, Any]:
    names = {'pad_token': tokenizer.id_to_token(source.pad_id)}
    if source.tokenizer.eos_id >= 0:
        names['eos_token'] = tokenizer.id_to_token(source.tokenizer.eos_id)
    return {
        'tokenizer_class': 'PreTrainedTokenizerFast',
        'padding_side': 'right',
        'model_max_length': source.description.text_length,
        'clean_up_tokenization_spaces': False,
        **names,
    }


def _convert_sentencepiece(tokenizers: ModuleType, source: TrainedModel) -> Any:
    """Returns a SentencePiece model as a tokenizer: unigram pieces, normaliser, special tokens."""
    import sentencepiece

    model = sentencepiece.SentencePieceProcessor(model_proto=source.vocabulary)
    kind = source.description.tokenizer.kind
    numbers = range(model.get_piece_size())
    pieces = [(model.id_to_piece(i), model.get_score(i)) for i in numbers]
    unknown = model.unk_id()
    if kind == 'xlm_r':
        # fairseq put its own special tokens in place of the first three pieces.
        special = [('<s>', 0.0), ('<pad>', 0.0), ('</s>', 0.0), ('<unk>', 0.0)]
        pieces, unknown = [*special, *pieces[3:], ('<mask>', 0.0)], 3
    byte_fallback = any(model.is_byte(i) for i in numbers)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unknown, byte_fallback))
    tokenizer.normalizer = _build_normalizer(tokenizers, _read_charsmap(source.vocabulary), kind)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    ours = cast(SentencePieceTokenizer, source.tokenizer)
    special_tokens = [(pieces[i][0], i) for i in (*ours.start_ids, *ours.end_ids)]
    before, after = ([pieces[i][0] for i in ids] for ids in (ours.start_ids, ours.end_ids))
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=[*before, '$A', *after], special_tokens=special_tokens
    )
    return tokenizer


def _read_charsmap(model: bytes) -> bytes:
    """Returns the character map of a SentencePiece model, `normalizer_spec.precompiled_charsmap`.

    Reads the message by field numbers, 3 and 2: sentencepiece's own module for it needs a newer
    protobuf than TensorFlow has.
    """
    for number in (3, 2):
        message = empty_pb2.Empty()
        message.ParseFromString(model)
        fields = UnknownFieldSet(message)
        model = next((field.data for field in fields if field.field_number == number), b'')
    return model


def _build_normalizer(tokenizers: ModuleType, charsmap: bytes, kind: str) -> Any:
    normalizers, regex = tokenizers.normalizers, tokenizers.Regex
    steps = []
    if kind == 'siglip':
        steps = [normalizers.Replace(regex(PUNCTUATION), ''), normalizers.Lowercase()]
    if charsmap:
        steps.append(normalizers.Precompiled(charsmap))
    # SentencePiece itself removes outer spaces and joins inner ones.
    spaces = [normalizers.Strip(), normalizers.Replace(regex(' {2,}'), ' ')]
    return normalizers.Sequence([*steps, *spaces])
