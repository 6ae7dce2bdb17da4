"""Rules for the weights of an LSTM or a GRU of PyTorch, as the module `rnn` of a model."""

from mural_jax.pretrained.rules import TRANSPOSED, Rule

RECURRENT = (
    Rule('embedding.weight', 'token_VD'),
    Rule('embed.weight', 'token_VD'),  # the name in VSE++
    *(
        Rule(f'rnn.{their}_{side}_l%{end}', f'layers/%/{number}/{ours}/{leaf}', TRANSPOSED)
        for number, end in enumerate(('', '_reverse'))
        for side, ours in (('ih', 'input'), ('hh', 'recurrent'))
        for their, leaf in (('weight', 'kernel'), ('bias', 'bias'))
    ),
)
