"""The table of weight layouts that can be read."""

from mural_jax.pretrained.big_vision import BIG_VISION_IMAGE, BIG_VISION_TEXT
from mural_jax.pretrained.hugging_face import BERT, HF_CLIP_IMAGE, HF_CLIP_TEXT, HF_VIT
from mural_jax.pretrained.open_clip import OPEN_CLIP_IMAGE, OPEN_CLIP_TEXT
from mural_jax.pretrained.pytorch import RECURRENT
from mural_jax.pretrained.rules import DENSE, Rule, WeightLayout, prefix_rules
from mural_jax.pretrained.timm import TIMM_EFFICIENTNET, TIMM_RESNET, TIMM_VIT

_SCALARS = (Rule('logit_scale', 'spaces/*/log_temperature'), Rule('logit_bias', 'spaces/*/bias'))
# The first layout whose signature is in the file is taken. Whole models therefore come before the
# towers they consist of.
LAYOUTS = (
    WeightLayout(
        'Hugging Face CLIPModel or SiglipModel',
        signature=(
            'text_model.embeddings.token_embedding.weight',
            'vision_model.post_layernorm.weight',
        ),
        image=prefix_rules(HF_CLIP_IMAGE, 'vision_model.'),
        text=prefix_rules(HF_CLIP_TEXT, 'text_model.'),
        model=(
            Rule('visual_projection', 'spaces/*/heads/image', DENSE),
            Rule('text_projection', 'spaces/*/heads/text', DENSE),
            Rule('text_model.head', 'spaces/*/heads/text', DENSE),
            *_SCALARS,
        ),
    ),
    WeightLayout(
        'Hugging Face VisionTextDualEncoderModel of CLIP and BERT or XLM-R',
        signature=(
            'vision_model.post_layernorm.weight',
            'text_model.embeddings.word_embeddings.weight',
        ),
        image=prefix_rules(HF_CLIP_IMAGE, 'vision_model.'),
        text=prefix_rules(BERT, 'text_model.'),
        model=(
            Rule('visual_projection', 'spaces/*/heads/image', DENSE),
            Rule('text_projection', 'spaces/*/heads/text', DENSE),
            *_SCALARS,
        ),
    ),
    WeightLayout(
        'open_clip with a tower of timm',
        signature=('visual.trunk.patch_embed.proj.weight', 'text.token_embedding.weight'),
        image=prefix_rules(TIMM_VIT, 'visual.trunk.'),
        text=prefix_rules(OPEN_CLIP_TEXT, 'text.'),
        model=(
            Rule('visual.head.proj', 'spaces/*/heads/image', DENSE),
            Rule('text.text_projection', 'spaces/*/heads/text', DENSE),
            *_SCALARS,
        ),
    ),
    WeightLayout(
        'open_clip',
        signature=('visual.class_embedding', 'token_embedding.weight'),
        image=prefix_rules(OPEN_CLIP_IMAGE, 'visual.'),
        text=OPEN_CLIP_TEXT,
        model=(
            Rule('visual.proj', 'spaces/*/heads/image/kernel'),
            Rule('text_projection', 'spaces/*/heads/text/kernel'),
            *_SCALARS,
        ),
    ),
    WeightLayout(
        'big_vision two towers',
        signature=('img/embedding/kernel', 'txt/Embed_0/embedding'),
        image=prefix_rules(BIG_VISION_IMAGE, 'img/'),
        text=prefix_rules(BIG_VISION_TEXT, 'txt/'),
        model=(
            Rule('img/head', 'spaces/*/heads/image', DENSE),
            Rule('txt/head', 'spaces/*/heads/text', DENSE),
            Rule('t', 'spaces/*/log_temperature'),
            Rule('b', 'spaces/*/bias'),
        ),
    ),
    WeightLayout(
        'big_vision ViT',
        signature=('embedding/kernel', 'Transformer/encoder_norm/scale'),
        prefixes=('', 'img/'),
        tower=BIG_VISION_IMAGE,
    ),
    WeightLayout(
        'Hugging Face BertModel or XLMRobertaModel',
        signature=('embeddings.word_embeddings.weight',),
        prefixes=('', 'bert.', 'roberta.', 'model.'),
        tower=BERT,
    ),
    WeightLayout(
        'Hugging Face ViTModel',
        signature=('embeddings.patch_embeddings.projection.weight',),
        prefixes=('', 'vit.'),
        tower=HF_VIT,
    ),
    WeightLayout('timm ViT', signature=('patch_embed.proj.weight',), tower=TIMM_VIT),
    WeightLayout('timm EfficientNet', signature=('conv_stem.weight',), tower=TIMM_EFFICIENTNET),
    WeightLayout('timm ResNet', signature=('layer1.0.conv1.weight',), tower=TIMM_RESNET),
    WeightLayout('PyTorch LSTM or GRU', signature=('rnn.weight_ih_l0',), tower=RECURRENT),
)
