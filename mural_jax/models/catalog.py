"""Kinds of towers and heads."""

from mural_jax.models.convnets import EfficientNet, ResNet
from mural_jax.models.fusion import Fusion
from mural_jax.models.heads import Identity, Linear
from mural_jax.models.recurrent import Gru, Lstm
from mural_jax.models.text import Bert, Transformer
from mural_jax.models.vision import ViT

TOWERS = {
    'vit': ViT,
    'efficientnet': EfficientNet,
    'resnet': ResNet,
    'transformer': Transformer,
    'bert': Bert,
    'lstm': Lstm,
    'gru': Gru,
    'fusion': Fusion,
}


HEADS = {'linear': Linear, 'identity': Identity}
