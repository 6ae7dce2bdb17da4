"""Rules for the weights of open_clip."""

from mural_jax.pretrained.rules import DENSE, NORM, Rule, build_layer_rules

_OPEN_CLIP_LAYERS = build_layer_rules(
    'transformer.resblocks.#.',
    {
        'attention/qkv': 'attn!',
        'attention/out': 'attn.out_proj',
        'attention_norm': 'ln_1',
        'mlp/up': 'mlp.c_fc',
        'mlp/down': 'mlp.c_proj',
        'mlp_norm': 'ln_2',
    },
)
OPEN_CLIP_TEXT = (
    Rule('token_embedding.weight', 'token_VD'),
    Rule('positional_embedding', 'position_LD'),
    *_OPEN_CLIP_LAYERS,
    Rule('ln_final', 'norm', NORM),
)
OPEN_CLIP_IMAGE = (
    Rule('class_embedding', 'class_D'),
    Rule('positional_embedding', 'position_LD'),
    Rule('conv1', 'patches/0/linear', DENSE),
    Rule('ln_pre', 'embedding_norm', NORM),
    *_OPEN_CLIP_LAYERS,
    Rule('ln_post', 'norm', NORM),
)
