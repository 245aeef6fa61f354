"""Characters of a text that its words do not show: other line ends, byte order marks."""

from ptb_lm.corpus.text import BYTE_ORDER_MARK, EOS

LINE_SEPARATORS = {"\r": "CR", "\x85": "NEL", "\u2028": "U+2028", "\u2029": "U+2029"}
"""Characters that end lines in some files, and here stand between words as other white space."""

_OVERLAP = len(EOS) - 1
"""How many characters are looked at again, as what is looked for may be cut by a part's end."""


class Oddities:
    """Counts such characters in a text that comes in parts.

    Attributes:
        line_feeds: how many line feeds it has.
        separators: how often it has each of the other line ends; a CR before a line feed is none.
        marks: how many byte order marks it has, except for the one that may begin the file.
        written_eos: how often ``<eos>`` is written in it.
    """

    def __init__(self) -> None:
        self.line_feeds = self.marks = self.written_eos = 0
        self.separators = dict.fromkeys(LINE_SEPARATORS, 0)
        self._last = ""

    def see(self, part: str) -> None:
        """Count what is in the next part of the text."""
        text, last = self._last + part, self._last
        self.line_feeds += part.count("\n")
        self.marks += part.count(BYTE_ORDER_MARK)
        self.written_eos += text.count(EOS)
        for separator in LINE_SEPARATORS:
            self.separators[separator] += part.count(separator)
        if "\r" in text:
            for ended in ("\r\n", "\r\r\n"):  # the second is CRLF written as text on Windows
                self.separators["\r"] -= text.count(ended) - last.count(ended)
        self._last = text[-_OVERLAP:]
