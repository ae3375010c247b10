"""The glossary of the words on the screen, in the order in which a user meets them.

As data, so that a test can find a column or a heading without an explanation. The meanings are
those of `lens_core` (`docs/method.md`), which are not always those of the paper.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A term as shown on the screen, and its meaning.

    `plain` is the term in ASCII, if different. Commas separate terms that share a meaning.
    """

    term: str
    meaning: str
    plain: str = ""

    def shown(self, *, ascii_only: bool) -> str:
        return self.plain if ascii_only and self.plain else self.term


GLOSSARY: tuple[tuple[str, tuple[Word, ...]], ...] = (
    (
        "glossary: the two lenses",
        (
            Word(
                "value",
                "the feature's decoder row (a neuron's output weights): what it writes. Its "
                "lists are the tokens it promotes; their bottom, those it suppresses",
            ),
            Word(
                "key",
                "its encoder column (a neuron's input weights): what it reads. Its lists are "
                "the tokens that activate it; their bottom, those that inhibit it",
            ),
            Word(
                "Logit Lens, LL",
                "the vector read as it is: a value through the final norm and the unembedding, "
                "a key by its product with every token's embedding",
            ),
            Word(
                "Query Lens, QL",
                "the vector carried first: a value through the blocks after it, a key back "
                "through the blocks before it, each linearised at the reference's tokens and "
                "averaged. A value is then read as in Logit Lens, a key as a cosine (see unit)",
            ),
            Word(
                "identity",
                "nothing is carried, as with all blocks off. By the paper's conventions a "
                "value's Query Lens list is then the Logit Lens list. A key's may differ: Logit "
                "Lens reads the same vector with plain embeddings, Query Lens with centred ones "
                "of length one (see unit)",
            ),
            Word(
                "first order",
                "each block acts on the feature's own vector, and the results are added to it: "
                "no block reads what another wrote",
            ),
            Word("full", "each block also acts on what others wrote: Query Lens as in the paper"),
            Word(
                "reference",
                "the sample of text on which blocks are linearised and firing is counted",
            ),
        ),
    ),
    (
        "glossary: the table",
        (
            Word("id", "the feature's number in its layer; LAYER:NUMBER among all layers"),
            Word("*xm", "marks: * starred, x rejected, m with a note"),
            Word("tags", "the tags you gave it"),
            Word("label", "your name for it, one line; a column as soon as a feature has one"),
            Word(
                "marked",
                "in a filter: it has a star, a rejection, a tag, a label or a note; to go: the "
                "features without any",
            ),
            Word(
                "explanation",
                "what others say about it, from the file that the configuration names; several "
                "are joined by |",
            ),
            Word("note", "your note on it; shown where a filter or the order needs it"),
            Word(
                "LL value, QL value, QL key, LL key",
                "the best tokens of that lens and side, best first. QL is always full, with all "
                "blocks on; switches change the panes of the feature, not the table. LL key is "
                "shown where a filter or the order needs it",
            ),
            Word(
                "filter",
                "words, all of which a row must have: in a token of QL's lists, or with ll: before "
                "it of LL's, with key: or value: of one side, with tag:, label:, note: or "
                "explanation: in those. "
                "What matches is underlined; ... stands for better tokens that are left out. Or "
                "SQL: gain k > 0.3 and not silent",
            ),
            Word(
                "gain, stab, dens",
                "bars to read while scrolling, key before value. gain: full at 0.5, a dot near 0, "
                "- if coherence is lost; stab: full at 1; dens: full where a tenth of the tokens "
                "make it fire, one step less for half a decade less, 0 if none. > shows the "
                "columns with the numbers, and above the lists they are in words",
            ),
            Word(
                "gain v, gain k",
                "coherence of the Query Lens list minus that of the Logit Lens list, for value "
                "and key. Coherence is the mean cosine between the tokens of a list, measured "
                "from the vocabulary's mean (unembedding rows for values, embedding rows for "
                "keys): about 0 for random tokens. It does not judge meaning",
            ),
            Word(
                "▼, ▲",
                "the rows are sorted by this column, large or small values first; by 1, then by 2, "
                "where 1 leaves them equal",
                plain="\\, /",
            ),
            Word("stab v, stab k", "stability of the Query Lens list, value and key: see below"),
            Word(
                "density",
                "under dens: the share of the reference's tokens on which the feature fires (is "
                "above zero). The table, filters and exports have the reference's, like the "
                "maximum; evidence has those of the corpus that it names, if `qlens contexts` "
                "read one",
            ),
            Word("silent", "it never fires in the reference, which is too short to call it dead"),
        ),
    ),
    (
        "glossary: the token lists",
        (
            Word("score", "of a value: the logit that the vector gives the token"),
            Word(
                "unit, cosine",
                "a key's score divided by the length of the key it was read from (the feature's "
                "own for Logit Lens, otherwise the carried one), so that features can be "
                "compared. Under Query Lens and first order it is the cosine (-1 to 1) between "
                "the key and the step from the reference's mean embedding to the token's. Under "
                "Logit Lens it is not a cosine: embeddings keep their lengths",
            ),
            Word(
                "scores in files",
                "exports and the atlas hold a key's scores undivided; for Query Lens, the "
                "paper's dot product. For unit, divide key_logit_scores by key_norm, "
                "key_query_scores by key_query_norm, key_first_order_scores by "
                "key_first_order_norm",
            ),
            Word(
                "moved",
                "how many ranks the token rose (+) or fell (-) against Logit Lens; for a key, "
                "partly because the two lenses read it differently (see unit)",
            ),
            Word(
                "vs on",
                "where blocks of the side are off: how many ranks the token rose (+) or fell (-) "
                "against all of them on. D compares with Logit Lens instead; a switches all on",
            ),
            Word("=", "the token is in more than one of the lists shown"),
            Word(
                "+",
                "with blocks off, the token came into the best k of the configuration; those that "
                "left are named below the list, however long it is",
            ),
            Word(
                "against all on",
                "with blocks off: by how much the summed score of the k tokens that are best with "
                "all on has changed, as a part of what it was (-38%: lost). A key's scores are "
                "taken before they are divided by its length",
            ),
            Word(
                "rank",
                "the token's place in the feature's own list of all tokens; 1 is the best. "
                "Search orders features by it, then by score (o: by score alone: a feature with "
                "large scores throughout leads for tokens that it ranks in the ten-thousands). "
                "With several tokens, the worst rank and the lowest score of those wanted",
            ),
            Word(
                "a, b and a -b",
                "in a search: features that rank both tokens well; those that rank a well, without "
                "those that have b among their best k tokens or in front of a",
            ),
            Word(
                "length, carried",
                "the length of the feature's own vector, and of the vector after the transition",
            ),
            Word(
                "stability",
                "overlap of two Query Lens lists, one from each half of the reference: tokens in "
                "both divided by tokens in either; 1 if they are equal. Known where operators "
                "give a full transition with all blocks of the side on",
            ),
            Word(
                "relative variance",
                "how much the carried vector varies over the reference's tokens: the mean "
                "squared deviation from their mean, divided by their mean square. 0: all equal; "
                "1: they cancel out. Not known where operators answered",
            ),
            Word(
                "operators",
                "one matrix for each point of the stream and each side, the same for all features "
                "there. Some come with qlens; B or `qlens build` computes the others",
            ),
            Word(
                "direct method",
                "passes over the reference for this one feature, made where there are no "
                "operators or they give no exact answer (some blocks off in a full transition)",
            ),
            Word(
                "grey",
                "numbers of another feature or other settings, until the new ones arrive",
            ),
            Word(
                "kept from before",
                "numbers of an earlier session on the same files, which the model, once it is "
                "loaded, confirms or replaces",
            ),
        ),
    ),
    (
        "glossary: the paths",
        (
            Word(
                "attn, mlp",
                "each cell is a block: blocks before the feature lead into its key, blocks after "
                "it carry its value",
            ),
            Word(
                "h0, h1",
                "the heads of an attention block, opened with enter and switched like blocks; "
                "their shares add up to the block's, but for ablation",
            ),
            Word("◆", "the feature's own block, which carries neither side", plain="@"),
            Word("×", "a block that is switched off", plain="x"),
            Word("·", "a share too small to draw", plain="."),
            Word(
                "share",
                "the block's part of the summed score of the signature's best tokens, without "
                "biases, in percent (or a bar; the tallest is the side's largest). It may be "
                "negative; together with direct, the shares of a side add up to 100%",
            ),
            Word("direct", "the share of the feature's own vector, through no block"),
            Word(
                "bias",
                "what the biases of the final norm and the unembedding add to the score, not "
                "counted in the 100%",
            ),
            Word(
                "first-reader split",
                "a block's share is everything that starts with that block reading the value; "
                "for a key, everything whose last step before the feature is that block",
            ),
            Word(
                "last-writer split",
                "a block's share is what that block itself added to the carried vector; exact "
                "with blocks off too",
            ),
            Word(
                "ablation split",
                "what the score of the top tokens loses with one block off, for every block in "
                "turn, and the overlap of the two lists; a path through two blocks counts for "
                "both, so that nothing adds up",
            ),
            Word(
                "first-order split",
                "a block's share is its own response to the feature's vector; the only split "
                "for first order and identity",
            ),
        ),
    ),
    (
        "glossary: the evidence",
        (
            Word(
                "contexts",
                "samples in which the feature fires: the largest activation, and the text around "
                "the token where it is [in brackets]; from the longest corpus that `qlens "
                "contexts` read for the layer, else from the reference",
            ),
            Word(
                "top, 4/4 to 1/4",
                "the strongest contexts; then some from each quarter of the activation range, "
                "zero to the largest, the strongest quarter first",
            ),
            Word(
                "shades",
                "the quarter of that range in which a token's activation lies; without colours "
                "or in ASCII a number after the token, 1 to 4",
            ),
            Word(
                "the bars",
                "how many tokens have activations in equal parts of the range, on a logarithmic "
                "scale; the number is the end of the last part",
            ),
            Word(
                "compare",
                "P pins the feature under the cursor; the one that the cursor goes to then stands "
                "beside it, of any layer. = marks tokens that both lists have; cos is the cosine "
                "of their own vectors, carried that of the vectors carried to where they are read",
            ),
            Word(
                "near-duplicates",
                "d: the features of the layer whose carried vectors have the largest cosine with "
                "this one's: keys, values, or both, of which the lesser cosine counts",
            ),
            Word(
                "observed",
                "r: the feature is set to strengths that change what the model says behind 100 "
                "neutral prefixes by a KL divergence of 0.25 and 0.5; the tokens whose ranks rise "
                "most are listed, with a + under each lens whose own list, with all blocks on, has "
                "them. At most about: what one half of the prefixes says of the other",
            ),
            Word(
                "nearest by value, nearest by key",
                "the features of the layer whose own vectors (not carried) have the largest "
                "cosine with this one's",
            ),
        ),
    ),
)
"""Every term, by the part of the screen where it occurs."""
