# SPDX-License-Identifier: Apache-2.0
"""One detector call made a report, whatever version and edition of FastNetMon made it.

Told apart by shape: stdin that starts as a JSON object is a document (Advanced, web callback,
Redis, MongoDB), everything else belongs to a command line.
"""

from collections.abc import Sequence

from hub.errors import NotUnderstoodError
from hub.intake.advanced import is_document, load_document, parse_advanced
from hub.intake.arguments import read_arguments
from hub.intake.community import parse_community
from hub.intake.model import Report


def parse(args: Sequence[str], stdin: bytes) -> Report:
    """Return what one call of the notify script or web callback says.

    Args:
        args: argv without the program, empty for a web callback; any text, also with lone
            surrogates for bytes that are no UTF-8.
        stdin: everything on stdin or in the request's body; any bytes.

    Raises:
        NotUnderstoodError: no action, no target, or no known shape; the reason is in the text.
    """
    call = read_arguments(args)
    if not is_document(stdin):
        return parse_community(call, stdin)
    try:
        document = load_document(stdin)
    except NotUnderstoodError as error:
        try:
            return parse_community(call, b"")
        except NotUnderstoodError:
            raise error from None
    return parse_advanced(document, call)
