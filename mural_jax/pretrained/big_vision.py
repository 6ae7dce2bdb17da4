"""Rules for the weights of big_vision, which are flax arrays in an npz file."""

from mural_jax.pretrained.rules import DENSE, NORM, Rule, build_layer_rules, prefix_rules

_ATTENTION = 'MultiHeadDotProductAttention_0/'
_BIG_VISION_LAYERS = build_layer_rules(
    'encoderblock_#/',
    {
        'attention/qkv': f'{_ATTENTION}(query|key|value)',
        'attention/out': f'{_ATTENTION}out',
        'attention_norm': 'LayerNorm_0',
        'mlp/up': 'MlpBlock_0/Dense_0',
        'mlp/down': 'MlpBlock_0/Dense_1',
        'mlp_norm': 'LayerNorm_1',
    },
)
_MAP = 'MAPHead_0/'
BIG_VISION_IMAGE = (
    Rule('cls', 'class_D'),
    Rule('pos_embedding', 'position_LD'),
    Rule('embedding', 'patches/0/linear', DENSE),
    *prefix_rules(_BIG_VISION_LAYERS, 'Transformer/'),
    Rule('Transformer/encoder_norm', 'norm', NORM),
    Rule(f'{_MAP}probe', 'map/query_1D'),
    Rule(f'{_MAP}{_ATTENTION}query', 'map/query', DENSE),
    Rule(f'{_MAP}{_ATTENTION}(key|value)', 'map/key_value', DENSE),
    Rule(f'{_MAP}{_ATTENTION}out', 'map/out', DENSE),
    Rule(f'{_MAP}LayerNorm_0', 'map/norm', NORM),
    Rule(f'{_MAP}MlpBlock_0/Dense_0', 'map/mlp/up', DENSE),
    Rule(f'{_MAP}MlpBlock_0/Dense_1', 'map/mlp/down', DENSE),
)
BIG_VISION_TEXT = (
    Rule('Embed_0/embedding', 'token_VD'),
    Rule('pos_embedding', 'position_LD'),
    *prefix_rules(_BIG_VISION_LAYERS, 'Encoder_0/'),
    Rule('Encoder_0/encoder_norm', 'norm', NORM),
)
