"""The calls of a browser that opens the page, as the document describes them."""

from collections.abc import Mapping
from typing import Any

from streamd.http.access.rules import RouteKey
from streamd.http.documents.answers import ErrorAnswer
from streamd.http.documents.operations import (
    PLAIN_TEXT,
    BodyContent,
    DocumentedAnswer,
    DocumentedCall,
    DocumentedParameter,
    describe_failures,
    make_content,
)
from streamd.http.documents.schemas import TEXT_SCHEMA, SchemaBook
from streamd.web.files import FILE_TYPES

HTML = FILE_TYPES[".html"]

_TAG = DocumentedParameter(
    name="If-None-Match", schema=TEXT_SCHEMA, text="The `ETag` of the file that the caller has.", place="header"
)
_NAME = DocumentedParameter(
    name="name", schema={"type": "string", "pattern": r"^[^/{}]+\Z"}, text="The name of the file.", place="path"
)
_HEADERS: Mapping[str, Any] = {"ETag": {"schema": TEXT_SCHEMA}, "Cache-Control": {"schema": TEXT_SCHEMA}}


def describe_page_calls(book: SchemaBook) -> dict[RouteKey, DocumentedCall]:
    """Return the calls of the page by route."""
    common = {
        304: DocumentedAnswer(text="The caller has the file already."),
        404: DocumentedAnswer(
            text="There is no such file, or the page is turned off.", content=make_content(book.refer(ErrorAnswer))
        ),
        **describe_failures(book, (), is_public=True),
    }
    files: BodyContent = dict.fromkeys(sorted({*FILE_TYPES.values(), "application/octet-stream"}), TEXT_SCHEMA)
    return {
        ("GET", "/"): DocumentedCall(
            name="getPage",
            group="page",
            text="Return the page for operators.",
            parameters=(_TAG,),
            answers={
                200: DocumentedAnswer(text="The page.", content={HTML: TEXT_SCHEMA}, headers=_HEADERS),
                503: DocumentedAnswer(
                    text="The installation has no page; the text says why.", content={PLAIN_TEXT: TEXT_SCHEMA}
                ),
                **common,
            },
        ),
        ("GET", "/assets/{name}"): DocumentedCall(
            name="getPageFile",
            group="page",
            text="Return a file that the page loads.",
            parameters=(_NAME, _TAG),
            answers={200: DocumentedAnswer(text="The file.", content=files, headers=_HEADERS), **common},
        ),
    }
