"""What the words on the screen mean, in the order that a person meets them.

As data, so that a column or a head cannot be added without a word on it (a test compares).
What a term says is what `lens_core` computes (`lens_core.lens`, `paths`, `atlas_files`), not
what the paper might.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A term as it stands on the screen (`plain`: in ASCII, where that differs), and its meaning.

    Several terms that one sentence explains are separated by commas.
    """

    term: str
    meaning: str
    plain: str = ""

    def shown(self, *, ascii_only: bool) -> str:
        return self.plain if ascii_only and self.plain else self.term


GLOSSARY: tuple[tuple[str, tuple[Word, ...]], ...] = (
    (
        "words: the two lenses",
        (
            Word(
                "value",
                "the feature's decoder row (a neuron's output weights), what it writes: its "
                "lists are what it promotes (their bottom: suppresses)",
            ),
            Word(
                "key",
                "its encoder column (a neuron's input weights), what it reads: its lists are "
                "what activates it (their bottom: inhibits)",
            ),
            Word(
                "Logit Lens, LL",
                "the vector as it is. A value goes through the final norm and the unembedding, "
                "a key is multiplied with every token's embedding",
            ),
            Word(
                "Query Lens, QL",
                "the vector carried first: a value through the blocks behind it, a key through "
                "those in front, linearised at the reference's tokens and averaged. A value is "
                "then read as in Logit Lens, a key as a cosine (see unit)",
            ),
            Word(
                "identity",
                "nothing is carried, as with all blocks off. By the paper's conventions a "
                "value's Query Lens list is then Logit Lens's. A key's need not be: the vector "
                "is the same, but Logit Lens reads it with plain embeddings, this list with "
                "centred ones of length one (see unit)",
            ),
            Word(
                "first order",
                "each block acts on the feature's own vector, and what they give is added to "
                "it: no block reads what another wrote",
            ),
            Word("full", "blocks act on what blocks before them gave: Query Lens as in the paper"),
            Word(
                "reference",
                "the sample of text that blocks are linearised on, and that firing is counted on",
            ),
        ),
    ),
    (
        "words: the table",
        (
            Word("id", "the feature's number in its layer, LAYER:NUMBER among all layers"),
            Word("*xm", "marks: * starred, x rejected, m with a note"),
            Word("tags", "the tags you gave it"),
            Word(
                "LL value, QL value, QL key",
                "the best tokens of that lens and side, best first; QL is always full, all "
                "blocks on. What you switch shows in the panes below",
            ),
            Word(
                "gain v, gain k",
                "coherence of Query Lens's list less that of Logit Lens's, value and key. "
                "Coherence is the mean cosine of a list's tokens to one another, from the "
                "vocabulary's mean (unembedding rows for values, embedding rows for keys): "
                "about 0 for tokens drawn at random. It is no judge of meaning",
            ),
            Word("stab v, stab k", "stability of Query Lens's list, value and key: see below"),
            Word(
                "dens",
                "density: the share of the reference's tokens on which it fires, that is, on "
                "which it is above zero",
            ),
            Word("silent", "it never fires in the reference, which is too short to call it dead"),
        ),
    ),
    (
        "words: the token lists",
        (
            Word("score", "a value's: the logit that the vector gives the token"),
            Word(
                "unit, cosine",
                "a key's score divided by the length of the key it was read from (the feature's "
                "own for Logit Lens, else the carried one), so that features compare. Under "
                "Query Lens and first order it is a cosine, -1 to 1, with the way from the "
                "reference's mean embedding to the token's. Under Logit Lens it is none: "
                "embeddings keep their lengths",
            ),
            Word(
                "scores in files",
                "exports and the atlas have a key's scores not divided, for Query Lens the "
                "paper's dot product. For unit, divide key_logit_scores by key_norm, "
                "key_query_scores by key_query_norm, key_first_order_scores by "
                "key_first_order_norm",
            ),
            Word(
                "moved",
                "how many ranks the token rose (+) or fell (-) against Logit Lens; of a key also "
                "because the two read it in different ways (see unit)",
            ),
            Word("=", "the token is in more than one of the lists shown"),
            Word(
                "rank",
                "where a token stands among all tokens of the feature, 1 the best. Search orders "
                "features by score, and a high score need not be the feature's best",
            ),
            Word(
                "length, carried",
                "the length of the feature's own vector, and of what the transition made of it",
            ),
            Word(
                "stability",
                "tokens in both over tokens in either of two Query Lens lists, one from each "
                "half of the reference: 1 where they are alike. Known where operators give a "
                "full transition with the side's blocks all on",
            ),
            Word(
                "relative variance",
                "how differently the reference's tokens carry the vector: the mean square of "
                "the deviation from their mean, over their mean square. 0: all alike; 1: they "
                "cancel out. Not known where operators answered",
            ),
            Word(
                "operators",
                "one matrix for each place and side, the same for all features. They come with "
                "qlens, or B builds them",
            ),
            Word(
                "direct method",
                "passes over the reference for this one feature: for want of operators, or "
                "where they give no exact answer (such as some blocks off in a full transition)",
            ),
            Word(
                "grey",
                "numbers of another feature, or of other switches than those asked for, until "
                "the new ones are there",
            ),
        ),
    ),
    (
        "words: the paths",
        (
            Word(
                "attn, mlp",
                "a cell is a block: those in front of the feature lead into its key, those "
                "behind it out of its value",
            ),
            Word("◆", "the feature's own block, on neither way", plain="@"),
            Word("×", "a block that is switched off", plain="x"),
            Word("·", "a share too small to draw", plain="."),
            Word(
                "share",
                "the block's part in the summed score of the signature's best tokens, biases "
                "left out, in percent (or a bar, the tallest for the side's largest). It may be "
                "negative; with direct, a side's shares add up to 100%",
            ),
            Word("direct", "the share of the feature's own vector, through no block"),
            Word(
                "bias",
                "what the final norm's and the unembedding's biases add to the score, beside "
                "the 100%",
            ),
            Word(
                "first-reader split",
                "a block's share is all that starts with it reading the value; of a key, all "
                "whose last step before the feature is that block",
            ),
            Word(
                "last-writer split",
                "a block's share is what it added where the walk came to it; exact with blocks "
                "off too",
            ),
            Word(
                "first-order split",
                "a block's share is its own response to the feature's vector: the only split of "
                "first order and of identity",
            ),
        ),
    ),
    (
        "words: the evidence",
        (
            Word(
                "strongest contexts",
                "sample:position in the reference, how strongly it fires there, and the token "
                "that it fires on [in brackets]",
            ),
            Word(
                "nearest by value, nearest by key",
                "features of the layer whose vectors, not carried, are most like this one's, "
                "with the cosine",
            ),
        ),
    ),
)
"""Every term, by where it is met."""
