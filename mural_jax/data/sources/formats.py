"""The formats that `mural data ingest` reads, by name."""

from mural_jax.data.sources.aligned import Aligned, Moses, Tatoeba
from mural_jax.data.sources.captions import CaptionTable
from mural_jax.data.sources.crisscrossed import CrissCrossed
from mural_jax.data.sources.pairs import PairTable
from mural_jax.data.sources.published import (
    CocoAnnotations,
    Crossmodal3600,
    FlickrTokens,
    Karpathy,
    Multi30k,
    XFlickrCO,
    Xtd10,
)
from mural_jax.data.sources.reader import Reader
from mural_jax.data.sources.scenes import Scenes
from mural_jax.data.sources.tfds_sets import TfdsSet
from mural_jax.data.sources.tmx import Tmx
from mural_jax.data.sources.webdataset import WebDataset
from mural_jax.data.sources.wit import Wit

# The first words of `mural data ingest`, in the order of its help.
FORMATS: dict[str, type[Reader]] = {
    'captions': CaptionTable,
    'webdataset': WebDataset,
    'wit': Wit,
    'karpathy': Karpathy,
    'coco': CocoAnnotations,
    'flickr': FlickrTokens,
    'multi30k': Multi30k,
    'xtd10': Xtd10,
    'xm3600': Crossmodal3600,
    'xflickrco': XFlickrCO,
    'crisscrossed': CrissCrossed,
    'pairs': PairTable,
    'moses': Moses,
    'tmx': Tmx,
    'aligned': Aligned,
    'tatoeba': Tatoeba,
    'tfds': TfdsSet,
    'scenes': Scenes,
}
