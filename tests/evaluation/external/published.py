"""Small random models as other libraries publish them, and a file that nobody should open."""

import sys
from pathlib import Path
from typing import Any

import pytest

IMAGE_SIZE = 32
WORDS = ['<pad>', '<unk>', '<end>', 'a', 'cat', 'dog', 'red', 'on', 'mat']
TEXTS = ['a cat', 'a red dog on a mat', 'mat', 'cat dog']
SMALL = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
VISION = SMALL | dict(image_size=IMAGE_SIZE, patch_size=8)


class Trap:
    """A pickle that writes the file `sprung` beside sys.argv[0] when it is opened."""

    def __reduce__(self) -> Any:
        return (Path.write_text, (Path(sys.argv[0]).with_name('sprung'), 'x'))


def import_torch() -> Any:
    from pretrained import reference  # Puts operators where torchvision looks for them.

    return reference.torch


def make_clip(folder: Path) -> Path:
    """Writes a random CLIP of transformers into a folder."""
    transformers = pytest.importorskip('transformers')
    tokens = dict(pad_token_id=0, bos_token_id=1, eos_token_id=2)
    text = SMALL | tokens | dict(vocab_size=len(WORDS), max_position_embeddings=16)
    config = transformers.CLIPConfig(text_config=text, vision_config=VISION, projection_dim=12)
    return save_model(transformers.CLIPModel(config), folder)


def make_siglip(folder: Path) -> Path:
    """Writes a random SigLIP of transformers into a folder."""
    transformers = pytest.importorskip('transformers')
    text = SMALL | dict(vocab_size=len(WORDS), max_position_embeddings=16, projection_size=16)
    config = transformers.SiglipConfig(text_config=text, vision_config=VISION)
    return save_model(transformers.SiglipModel(config), folder)


def save_model(model: Any, folder: Path) -> Path:
    """Writes a model with a tokenizer of WORDS and a processor of images."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    words = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token='<unk>'))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single='$A <end>', special_tokens=[('<end>', 2)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token='<pad>',
        unk_token='<unk>',
        eos_token='<end>',
        model_input_names=['input_ids', 'attention_mask'],
    )
    process = CLIPImageProcessorPil(
        size={'shortest_edge': IMAGE_SIZE}, crop_size={'height': IMAGE_SIZE, 'width': IMAGE_SIZE}
    )
    for part in (model, fast, process):
        part.save_pretrained(folder)
    return folder
