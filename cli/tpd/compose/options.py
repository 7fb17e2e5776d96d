"""Just enough of docker's option syntax to find out which words are options, values and names.

Tables list an option as `long,short=`, where `=` says that it takes a value. Docker parses with pflag: `--long value`,
`--long=value`, `-s value`, `-svalue`, `-s=value`, flags in clusters (`-it`), flags with a value only as
`--flag=false`, and `--` ends the options.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tpd_core.errors import UserError


@dataclass(frozen=True, slots=True)
class Option:
    """One option as given: its long name without dashes, and its value (None: a flag without one)."""

    name: str
    value: str | None = None

    @property
    def on(self) -> bool:
        """A flag that is not switched off by `--flag=false`."""
        return self.value is None or self.value.lower() in ("1", "t", "true")

    def words(self) -> list[str]:
        """As one word that means the same."""
        dashes = "--" if len(self.name) > 1 else "-"
        return [f"{dashes}{self.name}" if self.value is None else f"{dashes}{self.name}={self.value}"]


@dataclass(frozen=True, slots=True)
class Scan:
    """A scanned argument list.

    Args:
        options: In order.
        names: The words that are not options; where options end at the first of them, it and everything behind it.
    """

    options: tuple[Option, ...]
    names: tuple[str, ...]

    def values(self, *names: str) -> tuple[str, ...]:
        """All values given to the options."""
        return tuple(option.value for option in self.options if option.name in names and option.value is not None)

    def last(self, *names: str) -> str | None:
        """The value that counts when an option that is not a list is repeated."""
        values = self.values(*names)
        return values[-1] if values else None

    def on(self, *names: str) -> bool:
        """Whether one of the flags is on; its last mention counts."""
        last = {option.name: option.on for option in self.options}
        return any(last.get(name, False) for name in names)


class Table:
    """The options of one command."""

    def __init__(self, text: str) -> None:
        self._valued: dict[str, bool] = {}
        self._long: dict[str, str] = {}
        for entry in text.split():
            name, _, short = entry.rstrip("=").partition(",")
            self._valued[name] = entry.endswith("=")
            if short:
                self._long[short] = name

    def scan(
        self,
        words: Sequence[str],
        *,
        interspersed: bool,
        unknown: Callable[[str], UserError] | None = None,
    ) -> Scan:
        """Tell options from names.

        Args:
            words: The arguments.
            interspersed: Options may follow names; else the first name ends them.
            unknown: Makes the error for an option that the table does not have and whose form does not say whether
                it takes a value; without it such an option counts as a flag.

        Raises:
            UserError: An option lacks its value, or is unknown.
        """
        options: list[Option] = []
        names: list[str] = []
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                names += rest
                break
            if word == "-" or not word.startswith("-"):
                names.append(word)
                if not interspersed:
                    names += rest
                    break
            elif word.startswith("--"):
                options.append(self._long_option(word, rest, unknown))
            else:
                options += self._short_options(word, rest, unknown)
        return Scan(tuple(options), tuple(names))

    def _long_option(self, word: str, rest: list[str], unknown: Callable[[str], UserError] | None) -> Option:
        name, equals, value = word[2:].partition("=")
        valued = self._valued.get(name)
        if equals:
            return Option(name, value)
        if valued:
            return Option(name, _next(word, rest))
        if valued is None and unknown is not None:
            raise unknown(word)
        return Option(name)

    def _short_options(self, word: str, rest: list[str], unknown: Callable[[str], UserError] | None) -> list[Option]:
        options = []
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            name = self._long.get(letter)
            if name is None:
                if unknown is not None:
                    raise unknown(f"-{letter}")
                options.append(Option(letter))
            elif self._valued[name]:
                value = letters.removeprefix("=") if letters else _next(f"-{letter}", rest)
                options.append(Option(name, value))
                break
            elif letters.startswith("="):
                options.append(Option(name, letters[1:]))
                break
            else:
                options.append(Option(name))
        return options


def _next(option: str, rest: list[str]) -> str:
    if not rest:
        raise UserError(f"The option {option} lacks its value.")
    return rest.pop(0)
