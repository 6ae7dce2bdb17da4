"""Rules for the weights of timm."""

from mural_jax.pretrained.rules import DENSE, NORM, TRANSPOSED, Rule, build_layer_rules

TIMM_VIT = (
    Rule('cls_token', 'class_D'),
    Rule('pos_embed', 'position_LD'),
    Rule('patch_embed.proj', 'patches/0/linear', DENSE),
    Rule('norm_pre', 'embedding_norm', NORM),
    *build_layer_rules(
        'blocks.#.',
        {
            'attention/qkv': 'attn.qkv',
            'attention/out': 'attn.proj',
            'attention_norm': 'norm1',
            'mlp/up': 'mlp.fc1',
            'mlp/down': 'mlp.fc2',
            'mlp_norm': 'norm2',
        },
    ),
    Rule('norm', 'norm', NORM),
    Rule('attn_pool.latent', 'map/query_1D'),
    Rule('attn_pool.q', 'map/query', DENSE),
    Rule('attn_pool.kv', 'map/key_value', DENSE),
    Rule('attn_pool.proj', 'map/out', DENSE),
    Rule('attn_pool.norm', 'map/norm', NORM),
    Rule('attn_pool.mlp.fc1', 'map/mlp/up', DENSE),
    Rule('attn_pool.mlp.fc2', 'map/mlp/down', DENSE),
)

_MBCONV = 'blocks.%.#.'
TIMM_EFFICIENTNET = (
    Rule('conv_stem.weight', 'stem/kernel', TRANSPOSED),
    Rule('bn1', 'stem/norm', NORM),
    # The names of blocks that expand their channels. Blocks of the first stage do not, and number
    # their parts from the depthwise convolution on; `canonicalize_names` renames them to these.
    Rule(f'{_MBCONV}conv_pw.weight', 'stages/%/@/expand/kernel', TRANSPOSED),
    Rule(f'{_MBCONV}bn1', 'stages/%/@/expand/norm', NORM),
    Rule(f'{_MBCONV}conv_dw.weight', 'stages/%/@/depthwise/kernel', TRANSPOSED),
    Rule(f'{_MBCONV}bn2', 'stages/%/@/depthwise/norm', NORM),
    Rule(f'{_MBCONV}se.conv_reduce', 'stages/%/@/excite/reduce', DENSE),
    Rule(f'{_MBCONV}se.conv_expand', 'stages/%/@/excite/expand', DENSE),
    Rule(f'{_MBCONV}conv_pwl.weight', 'stages/%/@/project/kernel', TRANSPOSED),
    Rule(f'{_MBCONV}bn3', 'stages/%/@/project/norm', NORM),
    # ALIGN pools without the last convolution, so a tower may have none.
    Rule('conv_head.weight', 'head/kernel', TRANSPOSED, optional=True),
    Rule('bn2', 'head/norm', NORM, optional=True),
)

_BOTTLENECK = 'layer%.#.'
TIMM_RESNET = (
    Rule('conv1.weight', 'stem/kernel', TRANSPOSED),
    Rule('bn1', 'stem/norm', NORM),
    *(
        rule
        for number, name in enumerate(('reduce', 'spatial', 'expand'), 1)
        for rule in (
            Rule(f'{_BOTTLENECK}conv{number}.weight', f'stages/%-1/@/{name}/kernel', TRANSPOSED),
            Rule(f'{_BOTTLENECK}bn{number}', f'stages/%-1/@/{name}/norm', NORM),
        )
    ),
    Rule(f'{_BOTTLENECK}downsample.0.weight', 'stages/%-1/@/shortcut/kernel', TRANSPOSED),
    Rule(f'{_BOTTLENECK}downsample.1', 'stages/%-1/@/shortcut/norm', NORM),
)
