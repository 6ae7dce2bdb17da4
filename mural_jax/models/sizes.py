"""Published encoder sizes, to be unpacked in configs: `layers=dict(**VIT['B'])`."""

from typing import Any

Size = dict[str, Any]

# Arguments of `Layers`. Dosovitskiy et al. 2021; Ti and S: Touvron et al. 2021
# (arXiv:2012.12877); So400m: Alabdulmohsin et al. 2023 (arXiv:2305.13035), whose MLP has 4304
# hidden units.
VIT: dict[str, Size] = {
    'Ti': dict(width=192, depth=12, num_heads=3),
    'S': dict(width=384, depth=12, num_heads=6),
    'B': dict(width=768, depth=12, num_heads=12),
    'L': dict(width=1024, depth=24, num_heads=16),
    'H': dict(width=1280, depth=32, num_heads=16),
    'So400m': dict(width=1152, depth=27, num_heads=16, mlp_ratio=4304 / 1152),
}

# Arguments of `EfficientNet`. Tan & Le 2019, with the scaling factors of their released code; L2:
# Xie et al. 2020 (arXiv:1911.04252). The comments give the training resolution in pixels for
# classification.
EFFICIENTNET: dict[str, Size] = {
    'B0': dict(width_factor=1.0, depth_factor=1.0),  # 224
    'B1': dict(width_factor=1.0, depth_factor=1.1),  # 240
    'B2': dict(width_factor=1.1, depth_factor=1.2),  # 260
    'B3': dict(width_factor=1.2, depth_factor=1.4),  # 300
    'B4': dict(width_factor=1.4, depth_factor=1.8),  # 380
    'B5': dict(width_factor=1.6, depth_factor=2.2),  # 456
    'B6': dict(width_factor=1.8, depth_factor=2.6),  # 528
    'B7': dict(width_factor=2.0, depth_factor=3.1),  # 600
    'L2': dict(width_factor=4.3, depth_factor=5.3),  # 800
}

# Arguments of `Layers`. Devlin et al. 2019.
BERT: dict[str, Size] = {
    'base': dict(width=768, depth=12, num_heads=12, activation='gelu', norm_eps=1e-12),
    'large': dict(width=1024, depth=24, num_heads=16, activation='gelu', norm_eps=1e-12),
}
# Conneau et al. 2020 keep BERT's layers and change only the epsilon of the normalisation.
XLM_R: dict[str, Size] = {name: size | dict(norm_eps=1e-5) for name, size in BERT.items()}
