"""Conversations to examples: rendered, tokenised in batches by the Rust library, assistant tokens found by their
offsets.

A conversation is tokenised once, as a whole, as inference will see it; a token is trained if it begins in the
assistant's text. (Tokenising the turns apart would give other tokens where they meet.)
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter

import jinja2
from tokenizers import Tokenizer

from finetune_trainer.data.example import Example
from finetune_trainer.data.files import BadLines, DataFile, RowError
from finetune_trainer.data.rendering import Rendered, Renderer, UnstableTemplate
from finetune_trainer.data.rows import Row
from finetune_trainer.errors import BadConfiguration

BATCH_ROWS = 1000  # enough to keep the library's threads busy, few enough to stay small in memory


def tokenize_rows(
    rows: Iterable[Row],
    file: DataFile,
    bad: BadLines,
    *,
    backend: Tokenizer,
    renderer: Renderer,
    completions_only: bool,
) -> Iterator[Example]:
    """An example per row, in order; a row that the template refuses goes to `bad`.

    Raises BadConfiguration if the template does not say where the assistant's text lies.
    """
    backend.no_truncation()  # tokenizer.json may carry both, and they would cut and pad in silence
    backend.no_padding()
    rendered = _render(rows, file, bad, renderer, completions_only)
    while batch := list(islice(rendered, BATCH_ROWS)):
        encodings = backend.encode_batch([item.text for item in batch], add_special_tokens=False)
        for item, encoding in zip(batch, encodings, strict=True):
            spans = trained_tokens(item, encoding.offsets) if completions_only else [(0, len(encoding.ids))]
            yield Example.from_spans(encoding.ids, spans)


def _render(
    rows: Iterable[Row], file: DataFile, bad: BadLines, renderer: Renderer, completions_only: bool
) -> Iterator[Rendered]:
    for row in rows:
        try:
            yield _render_row(row, renderer, completions_only)
        except UnstableTemplate as error:
            raise BadConfiguration(
                "sft_args.train_on_completions_only needs to know where the assistant's text lies, but the model's "
                f"chat template does not tell ({file.name}:{row.line}: {error}); choose another "
                "data_conf.chat_template_name, mark the text with {% generation %} in the template, or set "
                "train_on_completions_only to false"
            ) from None
        except RowError as error:
            bad.add(file.name, row.line, str(error))


def _render_row(row: Row, renderer: Renderer, completions_only: bool) -> Rendered:
    try:
        return renderer.with_spans(row.messages) if completions_only else Rendered(renderer.text(row.messages), ())
    except jinja2.TemplateError as error:
        raise RowError(f"the chat template refuses the conversation: {error}") from None


def trained_tokens(rendered: Rendered, offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The token ranges of the character spans, given each token's (start, end) in the text."""
    return [_token_range(rendered.text, span, offsets) for span in rendered.spans]


def _token_range(text: str, span: tuple[int, int], offsets: Sequence[tuple[int, int]]) -> tuple[int, int]:
    start, end = span
    first = bisect_left(offsets, start, key=itemgetter(0))
    while first < len(offsets) and offsets[first] == (start, start):
        first += 1  # white space before the span, cut out of its token's offsets by byte-level tokenizers
    if first and offsets[first - 1][1] > start and not text[offsets[first - 1][0] : start].strip():
        first -= 1  # the word with the space before it: one token
    last = max(first, bisect_left(offsets, end, key=itemgetter(0)))
    return first, last
