"""What evaluators read of a split."""

import types
from pathlib import Path

from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.evaluation.split_data import SplitData


def test_images_are_decoded_as_regions_with_tags(scenes_dir: Path) -> None:
    embedder = types.SimpleNamespace(tokenize=list)
    regions = RegionSettings(most=4, side=8)
    data = SplitData(embedder, scenes_dir, 96, 96, None, None, regions=regions, tags='tags')
    examples = data.read_examples('captions/scenes', 'test', 'caption', images=True)
    tags, region_NRF = examples.decode(0, 20)
    assert len(tags) == len(examples.ids) == len(region_NRF) == 20
    for texts, words, region_RF in zip(examples.first_texts, tags, region_NRF):
        objects = words.split(', ')
        assert all(word in texts['en'].split() for word in objects)
        assert len(objects) == (region_RF[:, -3] > 0).sum()
