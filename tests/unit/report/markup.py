"""A strict reader of the pages that we write: every element closed where it was opened, every name used once."""

from html.parser import HTMLParser

_VOID = {"meta", "br", "hr", "link", "img", "input", "area", "base", "col", "embed", "source", "track", "wbr"}
_LOADING = {"src", "srcset", "data", "poster", "action", "formaction", "background", "ping", "srcdoc"}
_DRAWING = {"style", "fill", "stroke", "clip-path", "mask", "filter"}
_FORBIDDEN = {
    *("script", "link", "img", "iframe", "object", "embed", "form", "base"),
    *("foreignobject", "image", "animate", "set"),
}


class Page(HTMLParser):
    """What a page consists of; raises AssertionError where it is not well formed or reaches for something outside."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.ids: set[str] = set()
        self.references: set[str] = set()
        self.words: list[str] = []
        self.headings: list[int] = []
        self.styles: list[str] = []
        self.tables: list[dict[str, int]] = []
        self.figures: list[set[str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"
        assert self.references <= self.ids, f"named and not there: {self.references - self.ids}"

    @property
    def text(self) -> str:
        """What is read, white space put together."""
        return " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._look_at(tag, attrs)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open or tag in _VOID, f"<{tag}/> does not close itself in HTML"
        self._look_at(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open[-1] == tag, f"</{tag}> closes <{self.open[-1]}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            self.styles.append(data)
        else:
            self.words.append(data)

    def _look_at(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in _FORBIDDEN, f"<{tag}> has no place here"
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag == "table":
            self.tables.append({})
        elif self.tables and "table" in self.open:
            self.tables[-1][tag] = self.tables[-1].get(tag, 0) + 1
        if tag == "svg":
            self.figures.append(set())
        elif self.figures and "svg" in self.open:
            self.figures[-1].add(tag)
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> says something twice"
        for name, value in attrs:
            value = value or ""
            assert not name.startswith("on"), f"{name} runs code"
            assert name not in _LOADING, f"{name} loads something"
            if name == "id":
                assert value not in self.ids, f"two are called {value}"
                self.ids.add(value)
            elif name in ("aria-labelledby", "aria-describedby"):
                self.references.update(value.split())
            elif name in ("href", "xlink:href"):
                assert value.startswith("#"), f"a link leads away: {value}"
                self.references.add(value[1:])
            elif name == "style":
                self.styles.append(value)
            for reference in value.split("url(")[1:] if name in _DRAWING else ():
                assert reference.startswith("#"), f"{name} loads {reference}"
                self.references.add(reference[1:].partition(")")[0])
