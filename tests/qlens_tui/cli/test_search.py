"""`qlens search` on a real tiny model, as a person and as a script."""

from __future__ import annotations

import pytest

from qlens_tui.text import token_label
from tests.qlens_tui.workplace import D_VOCAB, Workplace, scores_by_id


@pytest.mark.parametrize("lens", ["query", "logit", "first-order"])
@pytest.mark.parametrize(("side", "scores"), [("value", "scores"), ("key", "unit_scores")])
def test_search_prints_the_scores_that_show_prints(
    built: Workplace, side: str, scores: str, lens: str
) -> None:
    found = built.document(
        "search", built.config, "t", "--side", side, "--lens", lens, "-n", "3", "--layers", "0-1"
    )

    assert found["token"]["text"] == "t"
    assert found["tokens"] == [found["token"]]
    assert (found["without"], found["by"]) == ([], "rank")
    assert (found["side"], found["lens"], found["layers"]) == (side, lens, [0, 1])
    assert (found["device"], found["dtype"]) == ("cpu", "float32")
    assert len(found["results"]) == 3
    assert all(hit["ranks"] == [hit["rank"]] for hit in found["results"])
    order = [(hit["rank"], -hit["score"]) for hit in found["results"]]
    assert order == sorted(order)
    best = found["results"][0]
    shown = built.document(
        "show", built.config, f"{best['layer']}:{best['feature']}", "-k", str(D_VOCAB), "--no-paths"
    )
    lists = shown[side]
    name = {"query": "query_lens", "logit": "logit_lens", "first-order": "first_order"}[lens]
    token = found["token"]["id"]
    assert best["score"] == pytest.approx(scores_by_id(lists[name], scores)[token], rel=1e-4)
    assert lists[name]["ids"][best["rank"] - 1] == token
    assert best["logit_score"] == pytest.approx(
        scores_by_id(lists["logit_lens"], scores)[token], rel=1e-4
    )
    assert best["ids"] == lists[name]["ids"][:5]
    assert best["tokens"] == lists[name]["tokens"][:5]


def test_search_by_id_finds_what_search_by_text_finds(built: Workplace) -> None:
    by_text = built.document("search", built.config, "t")

    assert built.document("search", built.config, "--id", str(by_text["token"]["id"])) == by_text


def test_a_token_is_also_given_as_lists_show_it_or_by_its_number(place: Workplace) -> None:
    asked = place.config, "--lens", "logit", "-n", "1"
    shown = place.document("show", place.config, "1:3", "-k", str(D_VOCAB), "--no-paths")
    lists = shown["value"]["logit_lens"]
    faces = dict(zip(lists["ids"], lists["tokens"], strict=True))
    ids = {face: token for token, face in faces.items()}
    assert len(ids) == D_VOCAB

    for given in (r"\xe6", r"\x1b[31mred", "⏎", "␣", r"\u202elive", "<id 299>"):
        found = place.document("search", *asked, given)["token"]
        assert token_label(found["text"]) == given
        assert ids[found["text"]] == found["id"]
        named = place.document("search", *asked, f"#{found['id']}")
        assert named["token"] == found
    underscore = place.document("search", *asked, "_", PYTHONIOENCODING="ascii")["token"]
    assert underscore["text"] == "_"  # a token of its own comes before the notation


def test_search_without_operators_offers_logit_lens(place: Workplace) -> None:
    line = place.refusal(1, "search", place.config, "t")

    assert "run `qlens build` first" in line
    assert "--lens logit" in line
    found = place.document("search", place.config, "t", "--lens", "logit", "-n", "2")
    assert [len(hit["tokens"]) for hit in found["results"]] == [5, 5]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["the"], "'the' is not one token but 't' + 'h' + 'e'"),
        ([""], "an empty string is not a token"),
        (["--id", "300"], "outside the vocabulary, which has 300 tokens (ids 0 to 299)"),
        (["t", "--lens", "logit", "--layers", "1,7"], "no dictionary for layer 7"),
        (["t, the"], "'the' is not one token but 't' + 'h' + 'e'"),
        (["t,"], "a token is missing in 't,': write a, b or a -b"),
        (["t -"], "a token is missing in 't -'"),
        (["t, e -t"], "'t' is in 't, e -t' twice: name each token once"),
        (['t, "e'], """a double quote in 't, "e' is not closed"""),
        (['"t" e'], "put a comma between the tokens in"),
        (["--", "-t -e"], "names no token to look for"),
        (["a, b, c, d, e, f, g, h, i"], "9 tokens are too many: search for at most 8 at once"),
    ],
)
def test_a_bad_token_or_layer_is_one_line(place: Workplace, args: list[str], says: str) -> None:
    assert says in place.refusal(2, "search", place.config, *args)


def test_several_tokens_are_named_with_the_rank_of_each(built: Workplace) -> None:
    typed = 't, "e" -#104'

    found = built.document("search", built.config, typed, "-n", "100")

    assert [each["text"] for each in found["tokens"]] == ["t", "e"]
    assert [each["id"] for each in found["without"]] == [104]
    assert found["results"]
    for hit in found["results"]:
        assert hit["rank"] == max(hit["ranks"][:2])
        assert hit["ranks"][2] > hit["rank"]
    alone = built.document("search", built.config, "t", "-n", "100")
    assert len(alone["results"]) > len(found["results"])

    printed = built.run("search", built.config, typed, "-n", "2").stdout.splitlines()
    head = next(line for line in printed if line.split()[0] == "layer")
    title = " ".join(printed[: printed.index(head)])
    assert title.startswith("features that promote t (id ")
    assert " and e (id " in title
    unwanted = title.partition(", not ")[2].partition(" (id 104)")[0]
    assert head.split()[:6] == ["layer", "feature", "rank", "t", "e", f"-{unwanted}"]


def test_by_score_is_the_order_of_the_scores(built: Workplace) -> None:
    found = built.document("search", built.config, "t", "--by", "score", "-n", "9")

    scores = [hit["score"] for hit in found["results"]]
    assert found["by"] == "score"
    assert scores == sorted(scores, reverse=True)
    ranked = built.document("search", built.config, "t", "-n", "1000")["results"]
    assert scores[0] == max(hit["score"] for hit in ranked)


def test_search_says_by_which_conventions_it_ranks_whatever_the_config_says(
    built: Workplace,
) -> None:
    text = (built.folder / "tiny.toml").read_text("utf-8")
    config = built.write(
        "exact.toml", text.replace("k = 5", 'k = 5\nconvention = "exact"\nfinal_norm = "linearize"')
    )

    ours, theirs = (built.document("search", each, "t") for each in (config, built.config))

    assert (ours["convention"], ours["final_norm"]) == ("paper", "apply")
    assert ours == theirs
    assert "convention paper, final norm apply" in built.run("search", config, "t").stderr


def test_people_see_search_results_with_their_tokens(built: Workplace) -> None:
    result = built.run("search", built.config, "t", "-n", "4")

    title, head, *hits = result.stdout.splitlines()
    assert title.startswith("features that promote t (id ")
    assert title.endswith("Query Lens, by rank")
    assert head.split() == ["layer", "feature", "rank", "score", "logit", "its", "tokens"]
    assert len(hits) == 4
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    plain = built.run("search", built.config, "t", "-n", "4", "--lens", "logit").stdout
    assert plain.splitlines()[1].split() == ["layer", "feature", "rank", "score", "its", "tokens"]
