"""Text around an engine: whole characters, stop strings, usage, many answers at once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers
from transformers import PreTrainedTokenizerFast

from loraland.engine.protocol import Finished, Request, Sampling, Token
from loraland.engine.text import (
    Completion,
    Detokenizer,
    Piece,
    StopFilter,
    complete,
    complete_all,
    cut_at_stop,
    encode,
    pieces,
    stop_token_ids,
)
from loraland.errors import EngineFailed, InvalidRequest, LoraLandError


@pytest.fixture(scope="module")
def byte_tokenizer(zoo):
    return zoo.base().tokenizer


@pytest.fixture(scope="module")
def piece_tokenizer():
    """Like those of Llama 2 and Mistral: '▁' for spaces, bytes for what is not a piece."""
    pieces = ["<unk>", "</s>", "▁", "▁a", "a", "b", "▁ab", "é", "."]
    vocabulary = {
        piece: n for n, piece in enumerate([*pieces, *(f"<0x{n:02X}>" for n in range(256))])
    }
    core = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=[("▁", "a"), ("▁a", "b")],
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", eos_token="</s>")


class Script:
    """An engine that plays given tokens for a prompt, one at a time."""

    context_tokens = 4096

    def __init__(self, tokens, reason="length", fail_after=None):
        self.tokens, self.reason, self.fail_after = tokens, reason, fail_after
        self.cancelled: set[str] = set()
        self.played = self.now = self.most = 0
        self.order: list[str] = []

    def submit(self, request):
        if not request.prompt_ids:
            raise InvalidRequest("no tokens")
        self.order.append(request.id)
        return self._play(request)

    async def _play(self, request):
        self.now += 1
        self.most = max(self.most, self.now)
        index = -1
        try:
            for index, token in enumerate(self.tokens):
                await asyncio.sleep(0)
                if self.fail_after == index:
                    raise EngineFailed("broken")
                if request.id in self.cancelled:
                    yield Finished("cancelled", len(request.prompt_ids), index, 1.0, 2.0, 3.0)
                    return
                self.played += 1
                yield Token(token, index)
            yield Finished(self.reason, len(request.prompt_ids), index + 1, 1.0, 2.0, 3.0)
        finally:
            self.now -= 1

    def cancel(self, request_id):
        self.cancelled.add(request_id)


def request(number=0, prompt=(1, 2), **sampling):
    return Request(f"r{number}", tuple(prompt), None, Sampling(**sampling))


def stream(engine, tokenizer, stop=()):
    async def run():
        return [part async for part in complete(engine, tokenizer, request(), stop)]

    *deltas, last = asyncio.run(run())
    assert isinstance(last, Completion)
    assert all(isinstance(delta, str) and delta for delta in deltas)
    assert "".join(deltas) == last.text
    return deltas, last


class ScoredScript(Script):
    """The same, with a log-probability for each token that says its place."""

    async def _play(self, request):
        async for event in super()._play(request):
            scored = isinstance(event, Token)
            yield Token(event.id, event.index, -float(event.index)) if scored else event


def scored_pieces(engine, tokenizer, stop=(), trim=False):
    async def run():
        return [part async for part in pieces(engine, tokenizer, request(), stop, trim=trim)]

    *parts, last = asyncio.run(run())
    assert isinstance(last, Completion)
    assert all(isinstance(part, Piece) and (part.text or part.tokens) for part in parts)
    assert "".join(part.text for part in parts) == last.text
    return parts, last


TOKENS = st.lists(st.integers(0, 258), max_size=40)
STOPS = st.lists(st.text("abc\n ", min_size=1, max_size=4), max_size=3)


@given(tokens=TOKENS, stop=STOPS)
def test_deltas_are_the_decoded_text_up_to_the_first_stop(byte_tokenizer, tokens, stop):
    _, last = stream(Script(tokens), byte_tokenizer, stop)
    whole = byte_tokenizer.decode(tokens, skip_special_tokens=True)
    assert last.text == cut_at_stop(whole, stop)


@given(data=st.data())
def test_stops_across_token_boundaries_are_found_and_never_shown(byte_tokenizer, data):
    text = data.draw(st.text("abc", max_size=30))
    stop = data.draw(st.lists(st.text("abc", min_size=1, max_size=4), min_size=1, max_size=3))
    tokens = encode(byte_tokenizer, text)
    deltas, last = stream(Script(tokens), byte_tokenizer, stop)
    assert not any(s in last.text for s in stop)
    starts = [text.find(s) for s in stop if s in text]
    if len(stop) == 1 and starts:
        assert last.text == text[: starts[0]]
    if starts:
        assert last.finish_reason == "stop"
    else:
        assert (last.text, last.finish_reason) == (text, "length")
    shown = ""
    for delta in deltas:
        shown += delta
        assert last.text.startswith(shown)


@given(pieces=st.lists(st.text("ab\n", max_size=5), max_size=8), stop=STOPS)
def test_the_cut_does_not_depend_on_how_the_text_arrives(pieces, stop):
    cutter = StopFilter(stop)
    assert "".join(cutter.push(piece) for piece in pieces) + cutter.flush() == cut_at_stop(
        "".join(pieces), stop
    )


def test_the_stop_that_completes_first_wins_and_of_two_at_once_the_longer():
    assert cut_at_stop("abcd", ["abcd", "b"]) == "a"
    assert cut_at_stop("xabc", ["bc", "abc"]) == "x"
    assert cut_at_stop("no stop", []) == "no stop"
    assert cut_at_stop("held ba", ["bab"]) == "held ba"


@given(text=st.text(max_size=60))
def test_real_text_streams_in_whole_characters(byte_tokenizer, text):
    deltas, last = stream(Script(encode(byte_tokenizer, text)), byte_tokenizer)
    assert last.text == text
    if "\ufffd" not in text:
        assert not any("\ufffd" in delta for delta in deltas)
        assert len(deltas) == len(text)


@given(text=st.text("ab é.漢🙂\n", max_size=40))
def test_piece_tokenizers_lose_no_space(piece_tokenizer, text):
    tokens = encode(piece_tokenizer, text)
    _, last = stream(Script(tokens), piece_tokenizer)
    assert last.text == piece_tokenizer.decode(tokens, skip_special_tokens=True)
    assert last.text == text


def test_a_character_that_is_never_finished_comes_at_the_end_as_a_replacement(byte_tokenizer):
    tokens = encode(byte_tokenizer, "a🙂")[:-1]
    deltas, last = stream(Script(tokens), byte_tokenizer)
    assert deltas == ["a", "\ufffd"]
    assert last.finish_reason == "length"


def test_text_is_not_held_back_longer_than_a_stop_could_need(byte_tokenizer):
    detokenizer, cutter = Detokenizer(byte_tokenizer), StopFilter(["\n\n"])
    shown = [cutter.push(detokenizer.push(token)) for token in encode(byte_tokenizer, "a\nb\n\nc")]
    assert shown == ["a", "", "\nb", "", "", ""]
    assert cutter.stopped


def test_a_stop_string_ends_the_engines_work_and_keeps_the_counts(byte_tokenizer):
    engine = Script(encode(byte_tokenizer, "yes\n" + "x" * 1000))
    _, last = stream(engine, byte_tokenizer, ["\n"])
    assert (last.text, last.finish_reason) == ("yes", "stop")
    assert (last.prompt_tokens, last.generated_tokens) == (2, 4)
    assert (last.queue_ms, last.first_token_ms, last.total_ms) == (1.0, 2.0, 3.0)
    assert engine.played == 4


def test_closing_the_deltas_cancels_the_request(byte_tokenizer):
    engine = Script(encode(byte_tokenizer, "abc"))

    async def run():
        parts = complete(engine, byte_tokenizer, request())
        await anext(parts)
        await parts.aclose()
        assert engine.cancelled == {"r0"}

    asyncio.run(run())


def test_a_refused_request_raises_before_the_first_iteration(byte_tokenizer):
    with pytest.raises(InvalidRequest):
        complete(Script([]), byte_tokenizer, request(prompt=()))


def test_many_answers_keep_their_order_and_their_own_failures(byte_tokenizer):
    engine, told = Script(encode(byte_tokenizer, "ok")), []
    requests = [request(n, prompt=range(size)) for n, size in enumerate([5, 0, 3, 9, 1])]

    async def run():
        return await complete_all(
            engine, byte_tokenizer, requests, at_once=2, on_done=lambda index: told.append(index)
        )

    answers = asyncio.run(run())
    assert [a.prompt_tokens if isinstance(a, Completion) else a.code for a in answers] == [
        5, "invalid_request", 3, 9, 1,
    ]  # fmt: skip
    assert engine.order == ["r4", "r2", "r0", "r3"], "short prompts first"
    assert sorted(told) == [0, 1, 2, 3, 4]
    assert engine.most == 2


def test_a_failure_in_the_middle_is_an_answer_too(byte_tokenizer):
    async def run():
        return await complete_all(Script([70, 71], fail_after=1), byte_tokenizer, [request()])

    (answer,) = asyncio.run(run())
    assert isinstance(answer, LoraLandError)
    assert answer.code == "engine_failed"


def test_no_requests_give_no_answers(byte_tokenizer):
    assert asyncio.run(complete_all(Script([]), byte_tokenizer, [])) == []


def test_the_text_of_a_real_engine_is_the_text_of_transformers(zoo, engine_of):
    base = zoo.base()
    prompts = ["Hello", "What is 2 + 2?", "x"]

    def expected(prompt, adapter):
        from peft import PeftModel

        model = zoo.base().model
        if adapter:
            model = PeftModel.from_pretrained(model, zoo.one).eval()
        inputs = base.tokenizer(prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=12, do_sample=False, pad_token_id=0)
        return base.tokenizer.decode(
            output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )

    async def run():
        async with engine_of(base) as engine:
            await engine.load("one", zoo.one)
            sampling = Sampling(
                max_new_tokens=12, stop_token_ids=stop_token_ids(base.tokenizer, base.model)
            )
            asked = [(prompt, adapter) for prompt in prompts for adapter in (None, "one")]
            requests = [
                Request(str(n), encode(base.tokenizer, prompt), adapter, sampling)
                for n, (prompt, adapter) in enumerate(asked)
            ]
            for pair, answer in zip(
                asked, await complete_all(engine, base.tokenizer, requests), strict=True
            ):
                assert isinstance(answer, Completion)
                assert answer.text == expected(*pair)

    asyncio.run(run())


def test_an_appended_end_token_is_not_part_of_a_prompt(zoo):
    from tokenizers.processors import TemplateProcessing

    plain = zoo.base().tokenizer
    appending = zoo.base().tokenizer
    appending.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert appending("ab")["input_ids"][-1] == 2
    assert encode(appending, "ab") == (1, *encode(plain, "ab"))


def test_stop_tokens_are_the_tokenizers_and_the_generation_configs(zoo):
    base = zoo.base()
    base.model.generation_config.eos_token_id = [2, 7]
    assert stop_token_ids(base.tokenizer, base.model) == {2, 7}
    base.model.generation_config.eos_token_id = None
    assert stop_token_ids(base.tokenizer, base.model) == {2}


@settings(max_examples=30)
@given(tokens=TOKENS)
def test_the_detokenizer_alone_gives_the_decoded_text(byte_tokenizer, tokens):
    detokenizer = Detokenizer(byte_tokenizer)
    pieces = [detokenizer.push(token) for token in tokens]
    assert "".join(pieces) + detokenizer.flush() == byte_tokenizer.decode(
        tokens, skip_special_tokens=True
    )


def test_trimming_drops_the_white_space_before_the_first_word_and_no_stop_is_looked_for_in_it():
    assert cut_at_stop("\n yes\nno", ["\n"], trim=True) == "yes"
    assert cut_at_stop("\n yes\nno", ["\n"]) == ""
    assert cut_at_stop(" \n ", ["\n"], trim=True) == ""


@given(pieces=st.lists(st.text("ab \n", max_size=5), max_size=8), stop=STOPS)
def test_a_trimmed_cut_does_not_depend_on_how_the_text_arrives_either(pieces, stop):
    cutter, whole = StopFilter(stop, trim=True), "".join(pieces)
    shown = "".join(cutter.push(piece) for piece in pieces) + cutter.flush()
    assert shown == cut_at_stop(whole, stop, trim=True) == cut_at_stop(whole.lstrip(), stop)


@given(tokens=TOKENS)
def test_every_token_is_scored_once_in_order_with_the_place_of_its_text(byte_tokenizer, tokens):
    parts, last = scored_pieces(ScoredScript(tokens), byte_tokenizer)
    scores = [score for part in parts for score in part.tokens]
    assert [score.token.id for score in scores] == tokens
    assert [score.token.logprob for score in scores] == [-float(n) for n in range(len(tokens))]
    offsets = [score.offset for score in scores]
    assert offsets == sorted(offsets)
    assert all(0 <= offset <= len(last.text) for offset in offsets)
    if last.text.isascii():
        letters = [byte_tokenizer.decode([t], skip_special_tokens=True) for t in tokens]
        assert offsets == [len("".join(letters[:n])) for n in range(len(tokens))]


def test_scores_come_with_the_text_that_their_tokens_make(byte_tokenizer):
    tokens = encode(byte_tokenizer, "aé.")
    parts, _ = scored_pieces(ScoredScript(tokens), byte_tokenizer)
    assert [(part.text, [s.offset for s in part.tokens]) for part in parts] == [
        ("a", [0]),
        ("é", [1, 1]),
        (".", [2]),
    ]


@given(data=st.data())
def test_tokens_of_a_stop_string_are_not_scored(byte_tokenizer, data):
    text = data.draw(st.text("abc", max_size=20))
    stop = data.draw(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=2))
    parts, last = scored_pieces(ScoredScript(encode(byte_tokenizer, text)), byte_tokenizer, stop)
    scores = [score for part in parts for score in part.tokens]
    assert [score.offset for score in scores] == list(range(len(last.text)))
    shown = 0
    for part in parts:
        shown += len(part.text)
        assert all(score.offset < shown for score in part.tokens)


@given(data=st.data())
def test_the_end_tells_the_token_that_completed_the_stop_string_unless_it_was_told(
    byte_tokenizer, data
):
    text = data.draw(st.text("abc", max_size=20))
    stop = data.draw(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=2))
    tokens = encode(byte_tokenizer, text)
    parts, last = scored_pieces(ScoredScript(tokens), byte_tokenizer, stop)
    found = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert last.stop_string == bool(found)
    if not found:
        assert last.last is None
        return
    completed = min(found)[0] - 1
    assert (last.last.id, last.last.index) == (tokens[completed], completed)
    assert all(score.token.index < completed for part in parts for score in part.tokens)


def test_a_token_that_is_in_a_piece_is_not_told_again_at_the_end(piece_tokenizer):
    (ab,) = (piece_tokenizer.convert_tokens_to_ids("▁ab"),)
    parts, last = scored_pieces(ScoredScript([ab, ab]), piece_tokenizer, ["b"])
    assert [score.token.index for part in parts for score in part.tokens] == [0]
    assert (last.text, last.stop_string, last.last) == ("a", True, None)


def test_the_end_tells_the_stop_token(byte_tokenizer):
    class Ends(ScoredScript):
        async def _play(self, request):
            async for event in super()._play(request):
                end = isinstance(event, Finished)
                yield event._replace(stop=Token(2, 2, -0.5)) if end else event

    tokens = encode(byte_tokenizer, "ab")
    _, last = scored_pieces(Ends(tokens, "stop"), byte_tokenizer)
    assert (last.finish_reason, last.stop_string, last.last) == ("stop", False, Token(2, 2, -0.5))


def test_offsets_count_from_the_first_word_where_blanks_are_trimmed(byte_tokenizer):
    tokens = encode(byte_tokenizer, "  ab")
    parts, last = scored_pieces(ScoredScript(tokens), byte_tokenizer, trim=True)
    assert last.text == "ab"
    assert [s.offset for part in parts for s in part.tokens] == [0, 0, 0, 1]


def test_unscored_answers_have_pieces_without_tokens(byte_tokenizer):
    parts, _ = scored_pieces(Script(encode(byte_tokenizer, "ab")), byte_tokenizer)
    assert [(part.text, part.tokens) for part in parts] == [("a", ()), ("b", ())]
