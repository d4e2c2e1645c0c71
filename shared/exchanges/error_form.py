"""How an exchange says that something is wrong, and what it means to us."""

from dataclasses import dataclass
from enum import StrEnum

from shared.exchanges.row_forms import PathStep


class Outcome(StrEnum):
    """What an error answer means to us.

    IN_DOUBT: said of a symbol that does not exist and of a passing fault alike. The list of symbols tells the two apart.
    """

    UNAVAILABLE = "unavailable"
    THROTTLED = "throttled"
    REJECTED = "rejected"
    IN_DOUBT = "in_doubt"


@dataclass(frozen=True, slots=True)
class ErrorForm:
    """Where an answer carries its error, whatever its HTTP status.

    A code in `ok_codes` is no error. `other_code_paths`: where else a code may stand, if some errors have another form.
    """

    code_path: tuple[PathStep, ...] = ()
    other_code_paths: tuple[tuple[PathStep, ...], ...] = ()
    message_path: tuple[PathStep, ...] = ()
    ok_codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """What an answer means that has one of the `statuses`, one of the `codes` or one of the `texts`.

    Texts are looked for in code and message, ignoring case. `body` and `page_text` have to hold besides: `body` is the whole
    body, where that is all an exchange says: then it is an error with status 200 too. `page_text` is looked for in a body that
    is no JSON, ignoring case: what stands in front of an exchange answers with a page. `wait_ms` is how long to stay away when
    throttled and no header says so.
    """

    outcome: Outcome
    statuses: tuple[int, ...] = ()
    codes: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    body: str = ""
    page_text: str = ""
    wait_ms: int | None = None
