"""Rules that say where the arrays of other libraries go in our models.

A rule is (their name, our path, what the leaves below it are called). The names may hold
placeholders:

    #          number of a layer of a transformer, or of a block within a stage
    %          number of a stage, or of a layer of a recurrent tower; in our path, the same number,
               and `%-1` is the number before it
    (q|k|v)    alternatives that lie side by side in one array of ours
    @          in our path: `first` for block 0 of a stage, `blocks` for those behind it, which are
               stacked in one array because they are scanned
    *          in our path: every space that has such an array
"""

import dataclasses
import re
from typing import NamedTuple


class LeafNames(NamedTuple):
    """Names of the arrays below a name, {theirs: ours}. None are left if the name is an array.

    transposed: whether matrices are [out, in] and convolutions OIHW, as in PyTorch. With None the
        leaf decides: a `weight` is transposed, a `kernel` (of flax) is not.
    """

    leaves: dict[str, str]
    transposed: bool | None = None


DENSE = LeafNames({'weight': 'kernel', 'bias': 'bias', 'kernel': 'kernel'})
# Layer norms and batch norms. gamma and beta are the names of old checkpoints, scale that of flax.
NORM = LeafNames(
    {
        'weight': 'scale',
        'gamma': 'scale',
        'scale': 'scale',
        'bias': 'bias',
        'beta': 'bias',
        'running_mean': 'mean',
        'running_var': 'var',
    },
    transposed=False,
)
# Query, key and value of `torch.nn.MultiheadAttention`, side by side in one array.
FUSED = LeafNames({'in_proj_weight': 'kernel', 'in_proj_bias': 'bias'}, transposed=True)
RAW = LeafNames({}, transposed=False)
TRANSPOSED = LeafNames({}, transposed=True)


class Rule(NamedTuple):
    """Where the arrays with one name of theirs go.

    optional: our model may lack the array; the file's is then left out.
    """

    theirs: str
    ours: str
    kind: LeafNames = RAW
    optional: bool = False

    @property
    def pattern(self) -> re.Pattern:
        """Matches a whole name of theirs, with the groups layer, stage, part and leaf."""
        words = re.escape(self.theirs).replace(r'\#', r'(?P<layer>\d+)')
        words = words.replace('%', r'(?P<stage>\d+)')
        words = words.replace(r'\(', '(?P<part>').replace(r'\|', '|').replace(r'\)', ')')
        leaf = f'[./](?P<leaf>{"|".join(self.kind.leaves)})' if self.kind.leaves else ''
        return re.compile(words + leaf)

    @property
    def parts(self) -> list[str]:
        """The alternatives that lie side by side, in our order."""
        alternatives = re.search(r'\((.*)\)', self.theirs)
        return alternatives[1].split('|') if alternatives else []


@dataclasses.dataclass(frozen=True)
class WeightLayout:
    """How one library stores a kind of model.

    signature: names that together occur in this layout alone, behind one of `prefixes`.
    tower: rules for a file of one tower.
    image, text, model: rules for a file of a whole model, by the part they fill. `model` fills the
        heads (`spaces/*/heads/image`), temperatures and biases.
    """

    name: str
    signature: tuple[str, ...]
    prefixes: tuple[str, ...] = ('',)
    tower: tuple[Rule, ...] = ()
    image: tuple[Rule, ...] = ()
    text: tuple[Rule, ...] = ()
    model: tuple[Rule, ...] = ()


def prefix_rules(rules: tuple[Rule, ...], theirs: str = '', ours: str = '') -> tuple[Rule, ...]:
    """Returns the rules with prefixes before their names and our paths."""
    return tuple(
        rule._replace(theirs=theirs + rule.theirs, ours=ours + rule.ours) for rule in rules
    )


def build_layer_rules(theirs: str, names: dict[str, str]) -> tuple[Rule, ...]:
    """Returns the rules for the layers of a transformer.

    theirs: the prefix of a layer, with `#` for its number.
    names: their name of each of our parts. A `!` at the end marks a fused attention of PyTorch.
    """
    rules = []
    for ours, name in names.items():
        kind = NORM if ours.endswith('norm') else DENSE
        if name.endswith('!'):
            name, kind = name[:-1], FUSED
        rules.append(Rule(f'{theirs}{name}', f'stack/blocks/{ours}', kind))
    return tuple(rules)
