"""Input score of every lens on the demo's SAEs, on text that is neither reference nor training.

    python benchmarks/input_score.py [--config demo] [--layers 10] [--contexts 20] [--examples 10]

For every feature, contexts of the held-out text in which it fires, and in each the token on which
it fires most; the score of a token list is the share of those tokens that are in it
(docs/method.md, section 5; k = 25). Contexts are taken in the order of the text (`in order`) and,
also, the ones that activate the feature most (`strongest`). Features that fire in fewer than
`--contexts` contexts are left out and counted. Then features of the layer nearest 10 are printed
for which Query Lens is better: of those whose key has a score of at least one half on the
strongest contexts, and Logit Lens's at most a tenth, the ones whose lists gain most coherence, key
and value together. These are selected and say nothing about the average.

Takes seven minutes on two cores, of which most is the forward pass over the text.
"""

from __future__ import annotations

import argparse
import bz2
from importlib.resources import files

import torch
from torch import Tensor

from lens_core.coherence import coherence
from lens_core.config import load_config
from lens_core.dictionaries.feature_dictionary import FeatureDictionary, read_function
from lens_core.feature_map import vectors_of
from lens_core.lens import QueryLens
from lens_core.lenses import LENSES, LOGIT, QUERY
from lens_core.session import open_session
from lens_core.terms import SIDES

LENGTH = 128
BATCH = 16


def held_out(lens: QueryLens) -> Tensor:
    """`[contexts, LENGTH]` token ids of the held-out text."""
    text = bz2.decompress((files("lens_core") / "data" / "heldout.txt.bz2").read_bytes()).decode()
    tokenizer = lens.model.tokenizer
    assert tokenizer is not None
    ids = [
        token
        for passage in text.split("\n\n")
        for token in tokenizer(passage + "\n\n", add_special_tokens=False).input_ids
    ]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)


def lists(lens: QueryLens, dictionary: FeatureDictionary, k: int) -> dict[str, Tensor]:
    """The top `k` ids of every feature under each lens, `[n_features, k]`."""
    found = {}
    for side in SIDES:
        vectors = vectors_of(side, dictionary)
        for each in LENSES:
            carried = each.map(lens, side, dictionary)(vectors)
            found[f"{each.title} {side}"] = lens.readout(each.readouts[side]).top_k(carried, k)[0]
        if side == "key":
            found["Logit Lens key, centred cosine"] = lens.readout(QUERY.readouts[side]).top_k(
                vectors, k
            )[0]
    return found


def coherence_gain(lens: QueryLens, by_lens: dict[str, Tensor]) -> Tensor:
    """Coherence gain of Query Lens over Logit Lens, both sides added, `[n_features]`."""
    total = torch.zeros(())
    for side in SIDES:
        readout = lens.readout(LOGIT.readouts[side])
        for sign, name in ((1, "Query Lens"), (-1, "Logit Lens")):
            total = total + sign * coherence(
                by_lens[f"{name} {side}"], readout.rows, readout.center
            )
    return total


def strongest_tokens(lens: QueryLens, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The largest activation of each feature in each context and the token there."""
    dictionary = lens.dictionaries[layer]
    read = read_function(dictionary, lens.model)
    activations, ids = [], []
    for batch in tokens.to(lens.model.device).split(BATCH):
        stream = lens.model.sites(batch, last=dictionary.read_site)[-1][:, 1:]
        activation, position = dictionary.encode(read(stream)).max(1)
        activations.append(activation.cpu())
        ids.append(batch[:, 1:].gather(1, position).cpu())
    return torch.cat(activations), torch.cat(ids)


def input_scores(activation: Tensor, token: Tensor, best_ids: Tensor, contexts: int) -> Tensor:
    """`[2, n_features]`: in order and strongest; NaN with fewer than `contexts` firings."""
    scores = torch.full((2, activation.shape[1]), float("nan"))
    for feature in range(activation.shape[1]):
        fired = (activation[:, feature] > 0).nonzero()[:, 0]
        if len(fired) < contexts:
            continue
        order = activation[fired, feature].argsort(descending=True, stable=True)
        for row, chosen in enumerate((fired[:contexts], fired[order[:contexts]])):
            hit = torch.isin(token[chosen, feature], best_ids[feature].cpu())
            scores[row, feature] = hit.float().mean()
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="demo")
    parser.add_argument("--layers", type=int, nargs="+", help="only these")
    parser.add_argument("--contexts", type=int, default=20)
    parser.add_argument("--examples", type=int, default=10)
    arguments = parser.parse_args()
    session = open_session(load_config(arguments.config))
    lens = session.lens
    tokens = held_out(lens)
    layers = tuple(arguments.layers or lens.dictionaries.layers)
    nearest = min(layers, key=lambda layer: abs(layer - 10))
    print(f"{tokens.numel():,} held-out tokens in contexts of {LENGTH}, k = {lens.k}")
    for layer in layers:
        dictionary = lens.dictionaries[layer]
        activation, token = strongest_tokens(lens, layer, tokens)
        by_lens = lists(lens, dictionary, lens.k)
        scores = {
            name: input_scores(activation, token, ids, arguments.contexts)
            for name, ids in by_lens.items()
        }
        judged = ~scores["Query Lens key"][0].isnan()
        print(
            f"\nlayer {layer}: {int(judged.sum())} of {dictionary.n_features} features, "
            f"{int((~judged).sum())} fired in fewer than {arguments.contexts} contexts"
        )
        print(f"{'input score, %':34} {'in order':>16} {'strongest':>16}")
        for name, rows in scores.items():
            cells = []
            for row in rows:
                kept = 100 * row[judged]
                error = 1.96 * kept.std() / len(kept) ** 0.5
                cells.append(f"{kept.mean():8.1f} +- {error:.1f}")
            print(f"{name:34} {cells[0]:>16} {cells[1]:>16}")
        if layer == nearest:
            better = scores["Query Lens key"][1].ge(0.5) & scores["Logit Lens key"][1].le(0.1)
            gain = coherence_gain(lens, by_lens).cpu().where(better, -torch.inf)
            examples = gain.topk(arguments.examples).indices.tolist()
            print(f"({int(better.sum())} features to choose examples from)")
            shown = [
                (feature, {n: ids[feature] for n, ids in by_lens.items()}) for feature in examples
            ]
    print(
        f"\nlayer {nearest}, {arguments.examples} features where Query Lens reads better (chosen)"
    )
    for feature, of_lens in shown:
        print(f"\n{nearest}:{feature}")
        for name in ("Logit Lens key", "Query Lens key", "Logit Lens value", "Query Lens value"):
            texts = lens.vocabulary.texts(of_lens[name][:8].tolist())
            print(f"  {name:18} {' '.join(repr(text)[1:-1] for text in texts)}")


if __name__ == "__main__":
    main()
