"""The kinds of streams that a config can name."""

from mural_jax.data.streams.base import Stream
from mural_jax.data.streams.captions import Captions
from mural_jax.data.streams.hidden import HiddenCaptions
from mural_jax.data.streams.regions import RegionCaptions
from mural_jax.data.streams.translations import Translations

STREAMS: dict[str, type[Stream]] = {
    'captions': Captions,
    'translations': Translations,
    'regions': RegionCaptions,
    'hidden': HiddenCaptions,
}
