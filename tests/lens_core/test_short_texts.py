"""References of short texts: against each text alone, unpadded, differentiated as a whole."""

from dataclasses import replace

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from lens_core.batch_walk import Route
from lens_core.config import ReferenceConfig
from lens_core.direct import key_transition, pull_back, push_forward, value_transition
from lens_core.errors import ConfigError, QlensWarning, SampleError, UsageError
from lens_core.neutral_prefixes import SCORING, TUNING
from lens_core.operators.build import assemble, build_operators
from lens_core.operators.plan import plan_build
from lens_core.recording import Recording, stages
from lens_core.reference import ReferenceSample, load_evidence_text, load_reference
from lens_core.walk import Walk
from tests.fixtures import tolerance
from tests.oracles import relative, run, vector

LENGTHS = (3, 6, 1, 4, 6)


def ragged(skip_first=0, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(8)
    tokens = torch.randint(0, 101, (len(lengths), max(lengths)), generator=generator)
    ends = torch.tensor(lengths) - 1
    return ReferenceSample(tokens, "test", skip_first, 0, ends)


def carried(model, reference, v, first, last, *, is_key):
    """The mean over the texts, each by itself, of the derivative read at its last token."""
    total = torch.zeros_like(v)
    for sample in range(reference.samples):
        tokens = torch.tensor([reference.ids(sample)])
        start = run(model, model.embed(tokens), 0, first)[-1].detach()
        if is_key:
            start.requires_grad_()
            end = run(model, start, first, last)[-1]
            (gradient,) = torch.autograd.grad((end[0, -1] * v).sum(), start)
            total += gradient[0, reference.skip_first :].sum(0)
        else:
            written = torch.zeros_like(start)
            written[:, reference.skip_first :] = v

            def to_the_end(h):
                return run(model, h, first, last)[-1]

            total += torch.func.jvp(to_the_end, (start,), (written,))[1][0, -1]
    return total / reference.samples


@pytest.mark.parametrize("skip_first", [0, 1])
def test_both_transitions_are_those_of_each_text_alone(architecture, tiny, skip_first):
    reference = ragged(skip_first, (3, 6, 2, 4, 6))
    v, end = vector(tiny.d_model), tiny.n_blocks
    expected = carried(tiny, reference, v, 2, end, is_key=False)
    value = value_transition(tiny, reference, v, 2, batch=2)
    assert relative(value.vector, expected) < tolerance(architecture)
    expected = carried(tiny, reference, v, 0, 3, is_key=True)
    key = key_transition(tiny, reference, v, 3, batch=2)
    assert relative(key.vector, expected) < tolerance(architecture)


def test_what_fills_the_rows_is_never_read(toy):
    one = ragged()
    after = torch.arange(one.length) > one.ends[:, None]
    other = replace(one, tokens=torch.where(after, 7, one.tokens))
    v = vector(5)
    for transition in (value_transition, key_transition):
        found = [transition(toy, each, v, 2) for each in (one, other)]
        assert torch.equal(found[0].vector, found[1].vector)
        assert found[0].relative_variance == pytest.approx(found[1].relative_variance, abs=1e-12)


@pytest.mark.parametrize("transition", ["full", "first-order", "identity"])
@pytest.mark.parametrize("off", [frozenset(), frozenset({2})])
def test_walks_are_the_direct_method(architecture, tiny, transition, off):
    reference, v = ragged(), vector(tiny.d_model)
    routes = (
        (Route(2, tiny.n_blocks), value_transition),
        (Route(3, 0), key_transition),
    )
    for route, oracle in routes:
        walk = Walk(Recording(tiny, reference, batch=2), v, route, transition)
        got, n_tokens = walk.carried(off)
        expected = oracle(tiny, reference, v, route.start, transition=transition, off=off)
        assert n_tokens == reference.samples
        assert relative(got.vector, expected.vector) < tolerance(architecture)
        assert got.relative_variance == pytest.approx(expected.relative_variance, abs=1e-5)


def test_reading_back_is_the_adjoint_of_carrying(toy):
    """`w . T v` both ways, at every site."""
    reference, v, w = ragged(), vector(5, 1), vector(5, 2)
    back, there = pull_back(toy, reference, w), push_forward(toy, reference, w)
    for site in range(toy.n_blocks + 1):
        value = value_transition(toy, reference, v, site).vector
        assert float(back[site] @ v) == pytest.approx(float(value @ w), rel=1e-10)
        key = key_transition(toy, reference, v, site).vector
        assert float(there[site] @ v) == pytest.approx(float(key @ w), rel=1e-10)


def test_operators_are_the_same_means(architecture, tiny, tmp_path):
    reference, v = ragged(1, (3, 6, 2, 4, 6)), vector(tiny.d_model)
    plan = plan_build(tiny, "weights", reference, batch=2)
    build_operators(tiny, reference, plan, tmp_path)
    operators = assemble(tmp_path)
    error = tolerance(architecture)
    for site in (1, 4):
        value = value_transition(tiny, reference, v, site)
        assert relative(operators.value(site) @ v, value.vector) < error
        key = key_transition(tiny, reference, v, site)
        assert relative(v @ operators.key(site), key.vector) < error
        first = value_transition(tiny, reference, v, site, transition="first-order")
        assert relative(operators.first_order("value", site) @ v, first.vector) < error
        first = key_transition(tiny, reference, v, site, transition="first-order")
        assert relative(v @ operators.first_order("key", site), first.vector) < error
    for half, part in zip(operators.halves("value", 2), reference.split_halves(), strict=True):
        texts = replace(reference, tokens=reference.tokens[part], ends=reference.ends[part])
        assert relative(half @ v, value_transition(tiny, texts, v, 2).vector) < error
    with pytest.raises(UsageError, match="short texts has no late positions"):
        operators.transition("value", 2, "late")
    with pytest.raises(UsageError, match="short texts has no early positions"):
        value_transition(tiny, reference, v, 2, positions="early")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_counts_are_those_of_the_texts(lengths):
    reference = ragged(lengths=tuple(lengths))
    assert reference.n_tokens == reference.samples == len(lengths)
    assert reference.n_sources == sum(lengths)
    assert [len(reference.ids(sample)) for sample in range(len(lengths))] == lengths
    assert stages(reference, 8)[-1] == len(lengths)
    assert reference.sha256 != replace(reference, ends=None).sha256


def test_a_skip_that_leaves_out_a_last_token_is_refused():
    with pytest.raises(UsageError, match="the last token of a text"):
        ragged(skip_first=1)


TEXT_WORDS = "we saw the cat and a dog on its way home before rain fell there, again"
WORDS = TEXT_WORDS.split(" ")


def sentence(number):
    words = " ".join(WORDS[(7 * number + 11 * at) % len(WORDS)] for at in range(9))
    return f"{words.capitalize()}."


TEXT = " ".join(map(sentence, range(60)))


@pytest.fixture(scope="module")
def tokenizer():
    """One token for each word of `TEXT`."""
    split = pre_tokenizers.Whitespace()
    names = ["?", *dict.fromkeys(word for word, _ in split.pre_tokenize_str(TEXT))]
    words = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="?"))
    words.pre_tokenizer = split
    return transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="?")


def loaded(tokenizer, path, text, **settings):
    path.write_text(text)
    config = ReferenceConfig(source=f"text:{path}", **settings)
    return config, load_reference(config, tokenizer, d_vocab=1 << 20, offline=True)


def test_openings_are_the_first_tokens_of_sentences(tokenizer, tmp_path):
    config, found = loaded(
        tokenizer, tmp_path / "t.txt", TEXT, kind="openings", samples=12, length=6
    )
    assert found.samples == 12
    texts = [tokenizer.decode(found.ids(sample)) for sample in range(12)]
    assert len(set(texts)) == 12
    sentences = [
        tokenizer(sentence(number), add_special_tokens=False)["input_ids"] for number in range(60)
    ]
    for sample in range(12):
        ids = found.ids(sample)
        assert any(whole[: len(ids)] == ids for whole in sentences)
    assert {len(found.ids(sample)) for sample in range(12)} <= {3, 4, 5, 6}
    assert len(set(found.ends.tolist())) > 1
    fewer = replace(config, samples=5)
    again = load_reference(fewer, tokenizer, d_vocab=1 << 20, offline=True)
    assert [again.ids(at) for at in range(5)] == [found.ids(at) for at in range(5)]


def test_features_are_looked_for_in_running_text_if_the_reference_is_openings(tokenizer, tmp_path):
    config, found = loaded(
        tokenizer, tmp_path / "t.txt", TEXT * 20, kind="openings", samples=12, length=6
    )
    text = load_evidence_text(config, found, tokenizer, d_vocab=1 << 20, offline=True)
    assert (text.samples, text.length, text.ends) == (64, 33, None)
    chunks = replace(config, kind="chunks", samples=3)
    same = load_reference(chunks, tokenizer, d_vocab=1 << 20, offline=True)
    assert load_evidence_text(chunks, same, tokenizer, d_vocab=9, offline=True) is same


def test_prompts_are_lines_and_long_ones_keep_their_end(tokenizer, tmp_path):
    lines = ["saw the cat", "", "  ", "a dog on its way home", "saw the cat", "home there"]
    with pytest.warns(QlensWarning, match="of 1 prompts only the last 4 tokens"):
        _, found = loaded(tokenizer, tmp_path / "t.txt", "\n".join(lines), kind="prompts", length=4)
    expected = {
        tuple(tokenizer(line, add_special_tokens=False)["input_ids"][-4:])
        for line in lines
        if line.strip()
    }
    assert {tuple(found.ids(sample)) for sample in range(found.samples)} == expected
    assert found.samples == 3


def test_bundled_prompts_are_the_prefixes_that_do_not_score(tokenizer):
    config = ReferenceConfig(kind="prompts", source="bundled", samples=1000, length=12)
    found = load_reference(config, tokenizer, d_vocab=1 << 20, offline=True)
    expected = {tuple(tokenizer(each, add_special_tokens=False)["input_ids"]) for each in TUNING}
    assert {tuple(found.ids(sample)) for sample in range(found.samples)} == expected
    assert not set(TUNING) & set(SCORING)
    text = load_evidence_text(config, found, tokenizer, d_vocab=1 << 20, offline=True)
    assert (text.samples, text.length, text.ends) == (64, 33, None)


@pytest.mark.parametrize(
    ("text", "settings", "error", "said"),
    [
        ("", {"kind": "prompts"}, SampleError, "holds no prompt: write one on each line"),
        ("\n \n", {"kind": "prompts"}, SampleError, "holds no prompt"),
        ("no sentence here", {"kind": "openings"}, SampleError, "gives 0 openings .* asks for 8"),
        (TEXT, {"kind": "openings", "length": 2}, UsageError, "length 2 is too short for openings"),
    ],
)
def test_texts_that_give_no_reference_say_why(tokenizer, tmp_path, text, settings, error, said):
    with pytest.raises(error, match=said):
        loaded(tokenizer, tmp_path / "t.txt", text, samples=8, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "openings", "source": "tokens:x.json"}, 'set kind = "chunks"'),
        ({"kind": "openings", "source": "bundled", "skip_last": 1}, "set it to 0"),
        ({"kind": "sentences", "source": "bundled"}, '"chunks", "openings" or "prompts"'),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        ReferenceConfig(**settings)
