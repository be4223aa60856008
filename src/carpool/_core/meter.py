"""What answers say they took, and what that costs: bytes to counts to pico-dollars.

Owns the reading of ``usageMetadata``, for the account. Plain answers are summed and priced once a block; only those
with something special in them are priced one by one. An answer that does not say clearly what it took is of unknown
cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import msgspec

from carpool._core.prices import Cost, Rate, Spent

SAMPLES_MAX: Final = 16
"""Counts of output tokens that a block of answers gives to learn from."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**48)]


class _Detail(msgspec.Struct, frozen=True, rename="camel", gc=False):
    modality: str = ""
    token_count: _Count = 0


class _Usage(msgspec.Struct, frozen=True, rename="camel", gc=False):
    prompt_token_count: _Count = 0
    candidates_token_count: _Count = 0
    thoughts_token_count: _Count = 0
    cached_content_token_count: _Count = 0
    tool_use_prompt_token_count: _Count = 0
    total_token_count: _Count = 0
    prompt_tokens_details: list[_Detail] | None = None
    prompt_token_details: list[_Detail] | None = None
    """As embeddings spell it."""
    candidates_tokens_details: list[_Detail] | None = None
    cache_tokens_details: list[_Detail] | None = None


class _Grounding(msgspec.Struct, frozen=True, rename="camel", gc=False):
    web_search_queries: list[str] | None = None
    grounding_chunks: list[dict[str, msgspec.Raw]] | None = None


class _Candidate(msgspec.Struct, frozen=True, rename="camel", gc=False):
    grounding_metadata: _Grounding | None = None


class _View(msgspec.Struct, frozen=True, rename="camel", gc=False):
    usage_metadata: _Usage = _Usage()
    token_count: _Count = 0
    candidates: list[_Candidate] | None = None


class _PlainDetail(msgspec.Struct, frozen=True, gc=False):
    modality: Literal["TEXT"]


class _OneDetail(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    """A list of one: as a struct, it is nothing to the garbage collector."""

    only: _PlainDetail


class _PlainUsage(msgspec.Struct, frozen=True, rename="camel", gc=False):
    prompt_token_count: _Count = 0
    candidates_token_count: _Count = 0
    thoughts_token_count: _Count = 0
    cached_content_token_count: _Count = 0
    total_token_count: _Count = 0
    prompt_tokens_details: _OneDetail | None = None
    candidates_tokens_details: _OneDetail | None = None


class _PlainCandidate(msgspec.Struct, frozen=True, rename="camel", gc=False):
    grounding_metadata: None = None


class _OneCandidate(msgspec.Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True):
    only: _PlainCandidate


class _PlainView(msgspec.Struct, frozen=True, rename="camel", gc=False):
    usage_metadata: _PlainUsage
    candidates: _OneCandidate | None = None


class _PlainLine(msgspec.Struct, frozen=True, gc=False):
    """An answer of one candidate, from text to text, without a search: nothing else can be decoded so."""

    response: _PlainView


_decode: Final = msgspec.json.Decoder(_View, strict=False).decode
_decode_plain: Final = msgspec.json.Decoder(_PlainLine, strict=False).decode_lines
_NOTHING: Final = _View()


class Charge(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What some answers of one model and one route took and cost."""

    answers: int = 0
    unknown: int = 0
    """Of the answers: without a price, or without clear counts. They are in no other sum."""
    prompt: int = 0
    """Input tokens, those of tools included."""
    output: int = 0
    """Output tokens, thinking included."""
    list_picousd: int = 0
    """What they would have cost on the standard route."""
    paid_picousd: int = 0
    outputs: tuple[int, ...] = ()
    """Output tokens of a few of them, to learn from."""


NO_CHARGE: Final = Charge()


class Meter:
    """Prices the answers of one model and one route.

    Args:
        rate: the model's; ``None``: not known, and every answer is of unknown cost.
        route: ``batch``, ``flex`` or ``standard``.
        embeds: whether the answers are embeddings.
        text_only: whether the requests are known to hold nothing but text. Answers to embeddings in a batch tell one
            sum; where media have prices of their own, it can be priced only if there are none.
    """

    __slots__ = ("_embeds", "_plain", "_rate", "_route", "_text_only")

    def __init__(self, rate: Rate | None, route: str, *, embeds: bool = False, text_only: bool = False) -> None:
        self._rate = rate
        self._route = route
        self._embeds = embeds
        self._text_only = text_only
        self._plain = rate is not None and not embeds and not rate.by_kind
        """Whether the next answers may be plain ones."""

    def cost(self, body: bytes) -> Cost | None:
        """Return what one answer costs; ``None``: not known."""
        charge = self.charge((body,))
        return None if charge.unknown else Cost(charge.list_picousd, charge.paid_picousd)

    def cost_of_embeddings(self, prompt: int) -> Cost | None:
        """Return what several embeddings cost of which one sum of tokens is told; ``None``: not known."""
        rate = self._rate
        if rate is None or prompt > rate.long_from_tokens or not (rate.one_price or self._text_only):
            return None
        return rate.plain(self._route, prompt, 0)

    def charge(self, bodies: Sequence[bytes], lines: bytes = b"") -> Charge:
        """Return what some answers took and cost.

        Args:
            bodies: the server's JSON, one answer each.
            lines: the same as JSON lines, each with its answer as ``response``, if that is at hand: the answers of most
                jobs are plain ones, and charged so in two thirds of the time.
        """
        rate = self._rate
        count = len(bodies)
        if lines and count and self._plain:
            plain_charge = self._charge_plain(lines, count)
            if plain_charge is not None:
                return plain_charge
            self._plain = False  # neither will those be that come after them
        return Charge(answers=count, unknown=count) if rate is None else self._charge_each(bodies, rate)

    def _charge_each(self, bodies: Sequence[bytes], rate: Rate) -> Charge:
        """Return what some answers took and cost, having looked at each."""
        count = len(bodies)
        plain_prompt = plain_output = prompts = outputs = listed = paid = unknown = 0
        stride = max(1, count // SAMPLES_MAX)
        samples: list[int] = []
        one_price, long_from = rate.one_price, rate.long_from_tokens
        embeds = self._embeds
        simple = one_price if embeds else not rate.by_kind
        for index, body in enumerate(bodies):
            try:
                view = _decode(body)
            except (ValueError, RecursionError):  # not JSON as the strict decoder has it, or not counts
                view = _NOTHING
            usage = view.usage_metadata
            prompt = usage.prompt_token_count
            if embeds and simple and (prompt or view.token_count):
                plain_prompt += prompt or view.token_count
                continue
            output = usage.candidates_token_count + usage.thoughts_token_count
            candidates = view.candidates
            if (
                simple
                and prompt
                and prompt + output == usage.total_token_count
                and prompt <= long_from
                and not usage.cached_content_token_count
                and (one_price or _is_text(usage))
                and (not candidates or (len(candidates) == 1 and candidates[0].grounding_metadata is None))
            ):
                plain_prompt += prompt
                plain_output += output
            else:
                spent = _spent(view, embeds=embeds, text_only=self._text_only or simple)
                cost = None if spent is None else rate.cost(self._route, spent)
                if spent is None or cost is None:
                    unknown += 1
                    continue
                output = spent.output
                prompts += spent.prompt + spent.tool_use
                outputs += output
                listed += cost.list_picousd
                paid += cost.paid_picousd
            if not index % stride and not embeds:
                samples.append(output)
        plain = rate.plain(self._route, plain_prompt, plain_output)
        return Charge(
            answers=count,
            unknown=unknown,
            prompt=plain_prompt + prompts,
            output=plain_output + outputs,
            list_picousd=plain.list_picousd + listed,
            paid_picousd=plain.paid_picousd + paid,
            outputs=tuple(samples[:SAMPLES_MAX]),
        )

    def _charge_plain(self, lines: bytes, count: int) -> Charge | None:
        """Return what some answers took and cost; ``None`` if there is something special in one of them."""
        rate = self._rate
        try:
            usages = [line.response.usage_metadata for line in _decode_plain(lines)]
        except (ValueError, RecursionError):
            return None
        prompts = [usage.prompt_token_count for usage in usages]
        outputs = [usage.candidates_token_count + usage.thoughts_token_count for usage in usages]
        totals = [usage.total_token_count for usage in usages]
        cached = [usage.cached_content_token_count for usage in usages]
        if (
            rate is None
            or len(usages) != count
            or not all(prompts)
            or max(prompts) > rate.long_from_tokens
            or any(cached)
            or [prompt + output for prompt, output in zip(prompts, outputs, strict=True)] != totals
        ):
            return None
        prompt, output = sum(prompts), sum(outputs)
        cost = rate.plain(self._route, prompt, output)
        return Charge(
            answers=count,
            prompt=prompt,
            output=output,
            list_picousd=cost.list_picousd,
            paid_picousd=cost.paid_picousd,
            outputs=tuple(outputs[:: max(1, count // SAMPLES_MAX)][:SAMPLES_MAX]),
        )


def _is_text(usage: _Usage) -> bool:
    """Return whether input and output are said to be text, and nothing else."""
    for details in (usage.prompt_tokens_details, usage.candidates_tokens_details):
        if details is not None and not (len(details) == 1 and details[0].modality == "TEXT"):
            return False
    return True


def spent_of(body: bytes, *, embeds: bool = False, text_only: bool = False) -> Spent | None:
    """Return the counts of one answer; ``None``: it has none, or they contradict each other."""
    try:
        return _spent(_decode(body), embeds=embeds, text_only=text_only)
    except (ValueError, RecursionError):
        return None


def _spent(view: _View, *, embeds: bool, text_only: bool) -> Spent | None:
    usage = view.usage_metadata
    prompt = usage.prompt_token_count or view.token_count
    if not prompt:
        return None
    details = usage.prompt_tokens_details or usage.prompt_token_details
    if details is None and not text_only:
        return None
    output = 0 if embeds else _output_of(usage, prompt)
    searched = _searched(view.candidates)
    if output is None or searched is None:
        return None
    media = _sums(details)
    cached = usage.cached_content_token_count
    cached_media = _sums(usage.cache_tokens_details)
    if cached and usage.cache_tokens_details is None and (media.keys() - {"TEXT"}):
        return None  # nobody knows which of it was cached
    named = sum(cached_media.values()) - cached_media.get("TEXT", 0)
    cached_audio = cached_media.get("AUDIO", 0)
    pictures = _sums(usage.candidates_tokens_details).get("IMAGE", 0)
    spent = Spent(
        prompt=prompt,
        output=output,
        cached=cached,
        audio=media.get("AUDIO", 0),
        image=media.get("IMAGE", 0),
        video=media.get("VIDEO", 0),
        other=sum(count for name, count in media.items() if name not in _KNOWN),
        cached_audio=cached_audio,
        cached_media=named - cached_audio,
        image_output=pictures,
        tool_use=0 if searched else usage.tool_use_prompt_token_count,
        queries=searched,
    )
    return spent if _is_sound(spent) else None


_KNOWN: Final = frozenset({"TEXT", "AUDIO", "IMAGE", "VIDEO"})


def _is_sound(spent: Spent) -> bool:
    """Return whether no part is larger than its whole."""
    media = spent.audio + spent.image + spent.video + spent.other
    return (
        media <= spent.prompt
        and spent.cached <= spent.prompt
        and spent.cached_audio + spent.cached_media <= spent.cached
        and spent.cached_audio <= spent.audio
        and spent.prompt - spent.cached >= media - spent.cached_audio - spent.cached_media
        and spent.image_output <= spent.output
    )


def _output_of(usage: _Usage, prompt: int) -> int | None:
    """Return the billed output; ``None`` where the total tells of tokens that nothing else does.

    Answers differ in whether thoughts are part of the candidates' count; the total tells.
    """
    candidates, tools, total = usage.candidates_token_count, usage.tool_use_prompt_token_count, usage.total_token_count
    output = candidates + usage.thoughts_token_count
    if total in (0, prompt + output + tools, prompt + output):
        return output
    return candidates if total == prompt + candidates + tools else None


def _searched(candidates: list[_Candidate] | None) -> int | None:
    """Return how many different queries were searched for; ``None``: there is something whose fee is not known."""
    queries: dict[str, None] = {}
    for candidate in candidates or ():
        grounding = candidate.grounding_metadata
        if grounding is None:
            continue
        if any("maps" in chunk for chunk in grounding.grounding_chunks or ()):
            return None
        queries |= dict.fromkeys(query for query in grounding.web_search_queries or () if query)
    return len(queries)


def _sums(details: list[_Detail] | None) -> dict[str, int]:
    sums: dict[str, int] = {}
    for detail in details or ():
        if detail.token_count:
            sums[detail.modality] = sums.get(detail.modality, 0) + detail.token_count
    return sums
