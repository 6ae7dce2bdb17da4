"""Outputs and gradients of text towers, compared with transformers and PyTorch."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pretrained.reference import (
    DEPTH,
    assert_agree,
    assert_gradients_agree,
    encode,
    randomize,
    torch,
    transfer_weights,
)

from mural_jax.models import functional
from mural_jax.models.layers import Layers
from mural_jax.models.recurrent import Gru, Lstm
from mural_jax.models.sizes import BERT, XLM_R
from mural_jax.models.text import Bert

transformers = pytest.importorskip('transformers')

VOCABULARY = 500


def make_texts(pad_id: int = 0, length: int = 20) -> np.ndarray:
    """Returns int32 [4, L] with 20, 13, 1 and 7 real tokens."""
    text_BL = np.random.default_rng(1).integers(3, VOCABULARY, (4, length)).astype(np.int32)
    for row, real in zip(text_BL, (length, 13, 1, 7)):
        row[real:] = pad_id
    return text_BL


def build_bert(pool: str = 'first') -> tuple[Bert, torch.nn.Module]:
    ours = Bert(
        rngs=nnx.Rngs(0),
        vocab_size=VOCABULARY,
        layers=Layers(**BERT['base'] | {'depth': DEPTH}),
        max_length=512,
        pool=pool,
    )
    config = transformers.BertConfig(vocab_size=VOCABULARY, num_hidden_layers=DEPTH)
    return ours, randomize(transformers.BertModel(config))


def test_bert_agrees_with_hugging_face(tmp_path: Path) -> None:
    ours, theirs = build_bert('pooler')
    split, report = transfer_weights(ours, theirs, 'text', tmp_path)
    assert report.unplaced == []
    text_BL = make_texts()
    encoding = encode(split, text_BL)
    expected = theirs(torch.tensor(text_BL), attention_mask=torch.tensor(text_BL != 0))
    real = text_BL != 0
    assert_agree(encoding.tokens_BLD[real], expected.last_hidden_state[torch.tensor(real)])
    assert_agree(encoding.pooled_BD, expected.pooler_output)


def test_gradient_of_bert_agrees_with_hugging_face(tmp_path: Path) -> None:
    ours, theirs = build_bert()
    split, _ = transfer_weights(ours, theirs, 'text', tmp_path)
    text_BL = make_texts()

    def loss(params: dict) -> jax.Array:
        return (functional.merge(split[0], params, split[2])(text_BL).pooled_BD ** 2).mean()

    gradient = jax.jit(jax.grad(loss))(split[1])
    mask = torch.tensor(text_BL != 0)
    out = theirs(torch.tensor(text_BL), attention_mask=mask).last_hidden_state[:, 0]
    (out**2).mean().backward()
    assert_gradients_agree(gradient, theirs, ours, 'text', tmp_path)


def test_xlm_r_agrees_with_hugging_face(tmp_path: Path) -> None:
    """XLM-R numbers positions from behind the id of padding, 1."""
    ours = Bert(
        rngs=nnx.Rngs(0),
        vocab_size=VOCABULARY,
        layers=Layers(**XLM_R['base'] | {'depth': DEPTH}),
        max_length=512,
        num_segments=1,
        position_offset=2,
        pad_id=1,
    )
    config = transformers.XLMRobertaConfig(
        vocab_size=VOCABULARY,
        num_hidden_layers=DEPTH,
        max_position_embeddings=514,
        pad_token_id=1,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    theirs = randomize(transformers.XLMRobertaModel(config))
    split, report = transfer_weights(ours, theirs, 'text', tmp_path)
    assert set(report.unplaced) == {'pooler.dense.weight', 'pooler.dense.bias'}
    text_BL = make_texts(pad_id=1)
    mask = torch.tensor(text_BL != 1)
    expected = theirs(torch.tensor(text_BL), attention_mask=mask).last_hidden_state
    encoding = encode(split, text_BL)
    assert_agree(encoding.tokens_BLD[text_BL != 1], expected[mask])
    assert_agree(encoding.pooled_BD, expected[:, 0])


class RecurrentReference(torch.nn.Module):
    """An embedding and a recurrent network of PyTorch, over packed sequences."""

    def __init__(self, kind: type, **settings):
        super().__init__()
        self.embed = torch.nn.Embedding(VOCABULARY, 24)
        self.rnn = kind(24, 32, batch_first=True, **settings)

    def forward(self, text_BL: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        lengths = torch.tensor((text_BL != 0).sum(1))
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            self.embed(torch.tensor(text_BL)), lengths, batch_first=True, enforce_sorted=False
        )
        states, last = self.rnn(packed)
        states, _ = torch.nn.utils.rnn.pad_packed_sequence(
            states, batch_first=True, total_length=text_BL.shape[1]
        )
        last = last[0] if isinstance(last, tuple) else last
        directions = 2 if self.rnn.bidirectional else 1
        return states, torch.cat(list(last[-directions:]), dim=-1)


@pytest.mark.parametrize('bidirectional', [False, True])
@pytest.mark.parametrize('depth', [1, 2])
@pytest.mark.parametrize(('ours', 'theirs'), [(Lstm, torch.nn.LSTM), (Gru, torch.nn.GRU)])
def test_recurrent_tower_agrees_with_pytorch(
    ours: type, theirs: type, depth: int, bidirectional: bool, tmp_path: Path
) -> None:
    reference = RecurrentReference(theirs, num_layers=depth, bidirectional=bidirectional).eval()
    tower = ours(
        rngs=nnx.Rngs(0),
        vocab_size=VOCABULARY,
        embedding=24,
        hidden=32,
        depth=depth,
        bidirectional=bidirectional,
    )
    split, report = transfer_weights(tower, reference, 'text', tmp_path)
    assert report.unplaced == []
    text_BL = make_texts()
    encoding = encode(split, text_BL)
    states, last = reference(text_BL)
    assert_agree(encoding.tokens_BLD, states)
    assert_agree(encoding.pooled_BD, last)
    # Padding changes nothing.
    longer = encode(split, np.pad(text_BL, ((0, 0), (0, 5))))
    np.testing.assert_allclose(longer.pooled_BD, encoding.pooled_BD, atol=1e-6)


def test_empty_text_encodes_to_zero() -> None:
    tower = Lstm(rngs=nnx.Rngs(0), vocab_size=9, embedding=4, hidden=4, bidirectional=True)
    np.testing.assert_array_equal(tower(jnp.zeros((1, 3), jnp.int32)).pooled_BD, 0)
