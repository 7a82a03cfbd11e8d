"""Shared by tests of pages."""

import html.parser


class Page(html.parser.HTMLParser):
    """Tags and addresses of a page."""

    def __init__(self):
        super().__init__()
        self.tags, self.addresses = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href") and not v.startswith("#")]

    def is_self_contained(self):
        """Whether it loads nothing from elsewhere."""
        outside = [a for a in self.addresses if "w3.org" not in a]
        return not outside and not {"script", "link", "img"} & set(self.tags)
