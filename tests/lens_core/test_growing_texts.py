"""Texts that grow token by token, against the same texts run as a whole."""

import pytest
import torch

from lens_core.growing_texts import GrowingTexts
from lens_core.splicing import normed_end, spliced
from tests.lens_core.test_finite_differences import ALL, loaded
from tests.lens_core.test_steering import some_texts
from tests.oracles import relative

FEATURE, STRENGTH, NEW = 3, 4.0, 6
WHERE = [name for name in ALL if name != "transcoder behind its own norm"]


@pytest.mark.parametrize("where", WHERE)
@torch.no_grad()
def test_every_position_is_as_if_the_whole_text_were_run(architecture, tiny, where, tmp_path):
    texts = some_texts()
    _, ours = loaded(ALL[where], tiny, tmp_path)
    n, before = texts.tokens.shape
    more = torch.randint(0, 101, (n, NEW), generator=torch.Generator().manual_seed(2))
    tokens = torch.cat([texts.tokens, torch.zeros(n, NEW, dtype=torch.int64)], 1)
    at = torch.arange(n)
    for step in range(NEW):
        tokens[at, texts.ends + 1 + step] = more[:, step]
    bound = 1e-9 if architecture == "gpt2" else 1e-4  # float32 norms and softmax inside
    for feature in (None, FEATURE):
        if feature is None:
            whole = tiny.final_norm(tiny.sites(tokens)[-1])
        else:
            real, fired = spliced(tiny, ours, tokens, keep_error=True)
            change = (STRENGTH - fired.of(feature))[..., None] * ours.values[feature]
            whole = normed_end(tiny, ours, real.moved(change))
        # What fills the rows behind a text is another token here, and must not matter.
        unread = torch.arange(tokens.shape[1]) > texts.ends[:, None]
        seen = tokens.masked_fill(unread, 7)
        growing = GrowingTexts(tiny, ours, n, tokens.shape[1], feature, STRENGTH)
        got = growing.read(seen, torch.arange(before).expand(n, before))
        assert relative(got[at, texts.ends], whole[at, texts.ends]) < bound
        for step in range(NEW):
            place = texts.ends + 1 + step
            seen[at, place] = more[:, step]
            got = growing.read(seen, place[:, None])
            assert relative(got[:, 0], whole[at, place]) < bound
