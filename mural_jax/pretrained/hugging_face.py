"""Rules for the weights of Hugging Face transformers."""

from mural_jax.pretrained.rules import DENSE, NORM, Rule, build_layer_rules

# BertModel and XLMRobertaModel.
BERT = (
    Rule('embeddings.word_embeddings.weight', 'token_VD'),
    Rule('embeddings.position_embeddings.weight', 'position_LD'),
    Rule('embeddings.token_type_embeddings.weight', 'segment_SD'),
    Rule('embeddings.LayerNorm', 'embedding_norm', NORM),
    *build_layer_rules(
        'encoder.layer.#.',
        {
            'attention/qkv': 'attention.self.(query|key|value)',
            'attention/out': 'attention.output.dense',
            'attention_norm': 'attention.output.LayerNorm',
            'mlp/up': 'intermediate.dense',
            'mlp/down': 'output.dense',
            'mlp_norm': 'output.LayerNorm',
        },
    ),
    Rule('pooler.dense', 'pooler', DENSE, optional=True),
)

# ViTModel.
HF_VIT = (
    Rule('embeddings.cls_token', 'class_D'),
    Rule('embeddings.position_embeddings', 'position_LD'),
    Rule('embeddings.patch_embeddings.projection', 'patches/0/linear', DENSE),
    *build_layer_rules(
        'encoder.layer.#.',
        {
            'attention/qkv': 'attention.attention.(query|key|value)',
            'attention/out': 'attention.output.dense',
            'attention_norm': 'layernorm_before',
            'mlp/up': 'intermediate.dense',
            'mlp/down': 'output.dense',
            'mlp_norm': 'layernorm_after',
        },
    ),
    # transformers 5 has other names for the same layers.
    *build_layer_rules(
        'layers.#.',
        {
            'attention/qkv': 'attention.(q_proj|k_proj|v_proj)',
            'attention/out': 'attention.o_proj',
            'attention_norm': 'layernorm_before',
            'mlp/up': 'mlp.fc1',
            'mlp/down': 'mlp.fc2',
            'mlp_norm': 'layernorm_after',
        },
    ),
    Rule('layernorm', 'norm', NORM),
)

# CLIPModel and SiglipModel, each behind the prefix of its tower.
_HF_CLIP_LAYERS = build_layer_rules(
    'encoder.layers.#.',
    {
        'attention/qkv': 'self_attn.(q_proj|k_proj|v_proj)',
        'attention/out': 'self_attn.out_proj',
        'attention_norm': 'layer_norm1',
        'mlp/up': 'mlp.fc1',
        'mlp/down': 'mlp.fc2',
        'mlp_norm': 'layer_norm2',
    },
)
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
    # SigLIP pools by attention. `canonicalize_names` makes the names q and kv as it splits the
    # fused array of the file.
    Rule('head.probe', 'map/query_1D'),
    Rule('head.attention.q', 'map/query', DENSE),
    Rule('head.attention.kv', 'map/key_value', DENSE),
    Rule('head.attention.out_proj', 'map/out', DENSE),
    Rule('head.layernorm', 'map/norm', NORM),
    Rule('head.mlp.fc1', 'map/mlp/up', DENSE),
    Rule('head.mlp.fc2', 'map/mlp/down', DENSE),
)
