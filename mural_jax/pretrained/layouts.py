"""What other libraries call the arrays that our models have.

A rule is (their name, our path, kind). In a name, `#` is the number of a layer, `%` that of a
stage or of a recurrent layer, (q|k|v) alternatives that lie side by side in one array of ours. In
a path, `%` is that stage, `@` is `first` for layer 0 and `blocks` for those behind it.
"""

import dataclasses
import re
from typing import NamedTuple


class Kind(NamedTuple):
    """The leaves of what a name stands for, {theirs: ours}; none where it is the array itself.

    turned: matrices are [out, in] and convolutions OIHW, as PyTorch has them. None tells by the
    leaf: a `weight` is, a `kernel` is not.
    """

    leaves: dict[str, str]
    turned: bool | None = None


DENSE = Kind({'weight': 'kernel', 'bias': 'bias', 'kernel': 'kernel'})
NORM = Kind({
    'weight': 'scale', 'gamma': 'scale', 'scale': 'scale', 'bias': 'bias', 'beta': 'bias',
    'running_mean': 'mean', 'running_var': 'var',
}, turned=False)  # fmt: skip
FUSED = Kind({'in_proj_weight': 'kernel', 'in_proj_bias': 'bias'}, turned=True)
RAW = Kind({}, turned=False)
TURNED = Kind({}, turned=True)


class Rule(NamedTuple):
    theirs: str
    ours: str
    kind: Kind = RAW
    optional: bool = False  # our model may have no such array

    @property
    def pattern(self) -> re.Pattern:
        """Of a whole name of theirs, with groups layer, stage, part and leaf."""
        words = re.escape(self.theirs).replace(r'\#', r'(?P<layer>\d+)')
        words = words.replace('%', r'(?P<stage>\d+)')
        words = words.replace(r'\(', '(?P<part>').replace(r'\|', '|').replace(r'\)', ')')
        leaf = f'[./](?P<leaf>{"|".join(self.kind.leaves)})' if self.kind.leaves else ''
        return re.compile(words + leaf)

    @property
    def parts(self) -> list[str]:
        """The alternatives that lie side by side, in our order."""
        found = re.search(r'\((.*)\)', self.theirs)
        return found[1].split('|') if found else []


def _rooted(root: str, prefix: str, rules: tuple[Rule, ...]) -> tuple[Rule, ...]:
    return tuple(
        rule._replace(theirs=prefix + rule.theirs, ours=root + rule.ours) for rule in rules
    )


def _layers(theirs: str, names: dict[str, str]) -> tuple[Rule, ...]:
    """Transformer layers: what `theirs` calls each of our parts, under its `#`."""
    rules = []
    for ours, name in names.items():
        kind = NORM if ours.endswith('norm') else DENSE
        if name.endswith('!'):
            name, kind = name[:-1], FUSED
        rules.append(Rule(f'{theirs}{name}', f'stack/blocks/{ours}', kind))
    return tuple(rules)


BERT = (
    Rule('embeddings.word_embeddings.weight', 'token_VD'),
    Rule('embeddings.position_embeddings.weight', 'position_LD'),
    Rule('embeddings.token_type_embeddings.weight', 'segment_SD'),
    Rule('embeddings.LayerNorm', 'embedding_norm', NORM),
    *_layers('encoder.layer.#.', {
        'attention/qkv': 'attention.self.(query|key|value)',
        'attention/out': 'attention.output.dense',
        'attention_norm': 'attention.output.LayerNorm',
        'mlp/up': 'intermediate.dense',
        'mlp/down': 'output.dense',
        'mlp_norm': 'output.LayerNorm',
    }),
    Rule('pooler.dense', 'pooler', DENSE, optional=True),
)  # fmt: skip

HF_VIT = (
    Rule('embeddings.cls_token', 'class_D'),
    Rule('embeddings.position_embeddings', 'position_LD'),
    Rule('embeddings.patch_embeddings.projection', 'patches/0/linear', DENSE),
    *_layers('encoder.layer.#.', {
        'attention/qkv': 'attention.attention.(query|key|value)',
        'attention/out': 'attention.output.dense',
        'attention_norm': 'layernorm_before',
        'mlp/up': 'intermediate.dense',
        'mlp/down': 'output.dense',
        'mlp_norm': 'layernorm_after',
    }),
    # The names of transformers 5.
    *_layers('layers.#.', {
        'attention/qkv': 'attention.(q_proj|k_proj|v_proj)',
        'attention/out': 'attention.o_proj',
        'attention_norm': 'layernorm_before',
        'mlp/up': 'mlp.fc1',
        'mlp/down': 'mlp.fc2',
        'mlp_norm': 'layernorm_after',
    }),
    Rule('layernorm', 'norm', NORM),
)  # fmt: skip

_HF_CLIP_LAYERS = _layers('encoder.layers.#.', {
    'attention/qkv': 'self_attn.(q_proj|k_proj|v_proj)',
    'attention/out': 'self_attn.out_proj',
    'attention_norm': 'layer_norm1',
    'mlp/up': 'mlp.fc1',
    'mlp/down': 'mlp.fc2',
    'mlp_norm': 'layer_norm2',
})  # fmt: skip
HF_CLIP_TEXT = (
    Rule('embeddings.token_embedding.weight', 'token_VD'),
    Rule('embeddings.position_embedding.weight', 'position_LD'),
    *_HF_CLIP_LAYERS,
    Rule('final_layer_norm', 'norm', NORM),
)
HF_CLIP_IMAGE = (
    Rule('embeddings.class_embedding', 'class_D'),
    Rule('embeddings.patch_embedding', 'patches/0/linear', DENSE),
    Rule('embeddings.position_embedding.weight', 'position_LD'),
    Rule('pre_layrnorm', 'embedding_norm', NORM),
    *_HF_CLIP_LAYERS,
    Rule('post_layernorm', 'norm', NORM),
    # SigLIP's pooling.
    Rule('head.probe', 'map/query_1D'),
    Rule('head.attention.q', 'map/query', DENSE),
    Rule('head.attention.kv', 'map/key_value', DENSE),
    Rule('head.attention.out_proj', 'map/out', DENSE),
    Rule('head.layernorm', 'map/norm', NORM),
    Rule('head.mlp.fc1', 'map/mlp/up', DENSE),
    Rule('head.mlp.fc2', 'map/mlp/down', DENSE),
)

TIMM_VIT = (
    Rule('cls_token', 'class_D'),
    Rule('pos_embed', 'position_LD'),
    Rule('patch_embed.proj', 'patches/0/linear', DENSE),
    Rule('norm_pre', 'embedding_norm', NORM),
    *_layers('blocks.#.', {
        'attention/qkv': 'attn.qkv',
        'attention/out': 'attn.proj',
        'attention_norm': 'norm1',
        'mlp/up': 'mlp.fc1',
        'mlp/down': 'mlp.fc2',
        'mlp_norm': 'norm2',
    }),
    Rule('norm', 'norm', NORM),
    Rule('attn_pool.latent', 'map/query_1D'),
    Rule('attn_pool.q', 'map/query', DENSE),
    Rule('attn_pool.kv', 'map/key_value', DENSE),
    Rule('attn_pool.proj', 'map/out', DENSE),
    Rule('attn_pool.norm', 'map/norm', NORM),
    Rule('attn_pool.mlp.fc1', 'map/mlp/up', DENSE),
    Rule('attn_pool.mlp.fc2', 'map/mlp/down', DENSE),
)  # fmt: skip

_BLOCK = 'blocks.%.#.'
TIMM_EFFICIENTNET = (
    Rule('conv_stem.weight', 'stem/kernel', TURNED),
    Rule('bn1', 'stem/norm', NORM),
    # Blocks that expand; in the first stage, which does not, names count from the depthwise on.
    Rule(f'{_BLOCK}conv_pw.weight', 'stages/%/@/expand/kernel', TURNED),
    Rule(f'{_BLOCK}bn1', 'stages/%/@/expand/norm', NORM),
    Rule(f'{_BLOCK}conv_dw.weight', 'stages/%/@/depthwise/kernel', TURNED),
    Rule(f'{_BLOCK}bn2', 'stages/%/@/depthwise/norm', NORM),
    Rule(f'{_BLOCK}se.conv_reduce', 'stages/%/@/excite/reduce', DENSE),
    Rule(f'{_BLOCK}se.conv_expand', 'stages/%/@/excite/expand', DENSE),
    Rule(f'{_BLOCK}conv_pwl.weight', 'stages/%/@/project/kernel', TURNED),
    Rule(f'{_BLOCK}bn3', 'stages/%/@/project/norm', NORM),
    # ALIGN pools without the last convolution, so a tower may have none.
    Rule('conv_head.weight', 'head/kernel', TURNED, optional=True),
    Rule('bn2', 'head/norm', NORM, optional=True),
)

_BLOCK = 'layer%.#.'
TIMM_RESNET = (
    Rule('conv1.weight', 'stem/kernel', TURNED),
    Rule('bn1', 'stem/norm', NORM),
    *(
        rule
        for number, name in enumerate(('reduce', 'spatial', 'expand'), 1)
        for rule in (
            Rule(f'{_BLOCK}conv{number}.weight', f'stages/%-1/@/{name}/kernel', TURNED),
            Rule(f'{_BLOCK}bn{number}', f'stages/%-1/@/{name}/norm', NORM),
        )
    ),
    Rule(f'{_BLOCK}downsample.0.weight', 'stages/%-1/@/shortcut/kernel', TURNED),
    Rule(f'{_BLOCK}downsample.1', 'stages/%-1/@/shortcut/norm', NORM),
)

_OPEN_CLIP_LAYERS = _layers('transformer.resblocks.#.', {
    'attention/qkv': 'attn!',
    'attention/out': 'attn.out_proj',
    'attention_norm': 'ln_1',
    'mlp/up': 'mlp.c_fc',
    'mlp/down': 'mlp.c_proj',
    'mlp_norm': 'ln_2',
})  # fmt: skip
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

_ATTENTION = 'MultiHeadDotProductAttention_0/'
_BIG_VISION_LAYERS = _layers('encoderblock_#/', {
    'attention/qkv': f'{_ATTENTION}(query|key|value)',
    'attention/out': f'{_ATTENTION}out',
    'attention_norm': 'LayerNorm_0',
    'mlp/up': 'MlpBlock_0/Dense_0',
    'mlp/down': 'MlpBlock_0/Dense_1',
    'mlp_norm': 'LayerNorm_1',
})  # fmt: skip
_MAP = 'MAPHead_0/'
BIG_VISION_IMAGE = (
    Rule('cls', 'class_D'),
    Rule('pos_embedding', 'position_LD'),
    Rule('embedding', 'patches/0/linear', DENSE),
    *_rooted('', 'Transformer/', _BIG_VISION_LAYERS),
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
    *_rooted('', 'Encoder_0/', _BIG_VISION_LAYERS),
    Rule('Encoder_0/encoder_norm', 'norm', NORM),
)

RECURRENT = (
    Rule('embedding.weight', 'token_VD'),
    Rule('embed.weight', 'token_VD'),  # VSE++
    *(
        Rule(f'rnn.{their}_{side}_l%{end}', f'layers/%/{number}/{ours}/{leaf}', TURNED)
        for number, end in enumerate(('', '_reverse'))
        for side, ours in (('ih', 'input'), ('hh', 'recurrent'))
        for their, leaf in (('weight', 'kernel'), ('bias', 'bias'))
    ),
)


@dataclasses.dataclass(frozen=True)
class Layout:
    """How one library writes a kind of model.

    has: names that only this layout has, behind one of `prefixes`. tower: rules of a file of one
    tower. image, text, model: rules of a file of a whole model, by what they fill; `model` is
    heads (`heads/*/image`), temperatures and biases, for all tasks (`*`).
    """

    name: str
    has: tuple[str, ...]
    prefixes: tuple[str, ...] = ('',)
    tower: tuple[Rule, ...] = ()
    image: tuple[Rule, ...] = ()
    text: tuple[Rule, ...] = ()
    model: tuple[Rule, ...] = ()


_SCALARS = (
    Rule('logit_scale', 'log_temperature/*'),
    Rule('logit_bias', 'bias/*'),
)
# The first layout that fits is taken: whole models before the towers they are made of.
LAYOUTS = (
    Layout(
        'Hugging Face CLIPModel or SiglipModel',
        has=('text_model.embeddings.token_embedding.weight', 'vision_model.post_layernorm.weight'),
        image=_rooted('', 'vision_model.', HF_CLIP_IMAGE),
        text=_rooted('', 'text_model.', HF_CLIP_TEXT),
        model=(
            Rule('visual_projection', 'heads/*/image', DENSE),
            Rule('text_projection', 'heads/*/text', DENSE),
            Rule('text_model.head', 'heads/*/text', DENSE),
            *_SCALARS,
        ),
    ),
    Layout(
        'Hugging Face VisionTextDualEncoderModel of CLIP and BERT or XLM-R',
        has=(
            'vision_model.post_layernorm.weight',
            'text_model.embeddings.word_embeddings.weight',
        ),
        image=_rooted('', 'vision_model.', HF_CLIP_IMAGE),
        text=_rooted('', 'text_model.', BERT),
        model=(
            Rule('visual_projection', 'heads/*/image', DENSE),
            Rule('text_projection', 'heads/*/text', DENSE),
            *_SCALARS,
        ),
    ),
    Layout(
        'open_clip with a tower of timm',
        has=('visual.trunk.patch_embed.proj.weight', 'text.token_embedding.weight'),
        image=_rooted('', 'visual.trunk.', TIMM_VIT),
        text=_rooted('', 'text.', OPEN_CLIP_TEXT),
        model=(
            Rule('visual.head.proj', 'heads/*/image', DENSE),
            Rule('text.text_projection', 'heads/*/text', DENSE),
            *_SCALARS,
        ),
    ),
    Layout(
        'open_clip',
        has=('visual.class_embedding', 'token_embedding.weight'),
        image=_rooted('', 'visual.', OPEN_CLIP_IMAGE),
        text=OPEN_CLIP_TEXT,
        model=(
            Rule('visual.proj', 'heads/*/image/kernel'),
            Rule('text_projection', 'heads/*/text/kernel'),
            *_SCALARS,
        ),
    ),
    Layout(
        'big_vision two towers',
        has=('img/embedding/kernel', 'txt/Embed_0/embedding'),
        image=_rooted('', 'img/', BIG_VISION_IMAGE),
        text=_rooted('', 'txt/', BIG_VISION_TEXT),
        model=(
            Rule('img/head', 'heads/*/image', DENSE),
            Rule('txt/head', 'heads/*/text', DENSE),
            Rule('t', 'log_temperature/*'),
            Rule('b', 'bias/*'),
        ),
    ),
    Layout(
        'big_vision ViT',
        has=('embedding/kernel', 'Transformer/encoder_norm/scale'),
        prefixes=('', 'img/'),
        tower=BIG_VISION_IMAGE,
    ),
    Layout(
        'Hugging Face BertModel or XLMRobertaModel',
        has=('embeddings.word_embeddings.weight',),
        prefixes=('', 'bert.', 'roberta.', 'model.'),
        tower=BERT,
    ),
    Layout(
        'Hugging Face ViTModel',
        has=('embeddings.patch_embeddings.projection.weight',),
        prefixes=('', 'vit.'),
        tower=HF_VIT,
    ),
    Layout('timm ViT', has=('patch_embed.proj.weight',), tower=TIMM_VIT),
    Layout('timm EfficientNet', has=('conv_stem.weight',), tower=TIMM_EFFICIENTNET),
    Layout('timm ResNet', has=('layer1.0.conv1.weight',), tower=TIMM_RESNET),
    Layout('PyTorch LSTM or GRU', has=('rnn.weight_ih_l0',), tower=RECURRENT),
)
