"""Which addresses a network may hand out, in which order. Pure arithmetic, no I/O.

An address travels as packed bytes (4 for IPv4, 16 for IPv6); inside this module it is an integer.
"""

import _socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def parse_address(text: object) -> bytes:
    """`"10.244.0.5"` or `"fd00::5"` to packed bytes. Raises ValueError that says what is wrong with the text."""
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no IP address in text form")
    if ":" in text:
        try:
            address = _socket.inet_pton(_socket.AF_INET6, text)
        except (OSError, ValueError):  # ValueError: a NUL byte
            raise ValueError(f"{text!r} is no IPv6 address") from None
        if address[:12] == b"\0" * 10 + b"\xff\xff":
            raise ValueError(f"{text!r} is IPv4 in IPv6 clothes; write {format_address(address[12:])}")
        return address
    parts = text.split(".")
    if len(parts) != 4 or not all(part.isascii() and part.isdigit() and len(part) <= 3 for part in parts):
        raise ValueError(f"{text!r} is no IPv4 address")
    if any(int(part) > 255 or (part[0] == "0" and part != "0") for part in parts):
        raise ValueError(f"{text!r} is no IPv4 address (each part is 0-255 without leading zeros)")
    return bytes(map(int, parts))


def format_address(address: bytes) -> str:
    """Packed bytes to text."""
    return _socket.inet_ntop(_socket.AF_INET if len(address) == 4 else _socket.AF_INET6, address)


def parse_network(text: object) -> "tuple[bytes, int]":
    """`"10.244.0.7/24"` to (address as given, prefix length). Raises ValueError."""
    if not isinstance(text, str) or text.count("/") != 1:
        raise ValueError(f"{text!r} is no subnet in the form ADDRESS/PREFIX")
    left, right = text.split("/")
    address = parse_address(left)
    most = len(address) * 8
    if not (right.isascii() and right.isdigit() and right == str(int(right)) and int(right) <= most):
        raise ValueError(f"{text!r} has no prefix length of 0-{most}")
    return address, int(right)


def parse_subnet(text: object) -> "tuple[bytes, int]":
    """`"10.244.0.0/24"` to (network address, prefix length). Raises ValueError, also for set host bits."""
    address, prefix = parse_network(text)
    network = mask(address, prefix)
    if network != address:
        raise ValueError(f"{text!r} has host bits set; the subnet is {format_address(network)}/{prefix}")
    return address, prefix


def mask(address: bytes, prefix: int) -> bytes:
    """The address with its host bits cleared."""
    host = len(address) * 8 - prefix
    return _packed(_number(address) >> host << host, len(address))


def _number(address: bytes) -> int:
    return int.from_bytes(address, "big")


def _packed(number: int, width: int) -> bytes:
    return number.to_bytes(width, "big")


class Range:
    """One contiguous part of a subnet: `first` to `last`, both usable (integers), its subnet and gateway."""

    __slots__ = ("first", "gateway", "last", "subnet", "width")

    def __init__(self, subnet: object, start: object = None, end: object = None, gateway: object = None) -> None:
        """The network address and IPv4's broadcast address stay out, except where a subnet has no others.

        Raises ValueError.
        """
        address, prefix = parse_subnet(subnet)
        self.subnet = str(subnet)
        self.width = len(address)
        base, size = _number(address), 1 << (self.width * 8 - prefix)
        edge = 1 if size > 2 else 0
        lowest = base + edge
        highest = base + size - 1 - (edge if self.width == 4 else 0)
        self.first = self._inside("rangeStart", start, lowest, highest, lowest)
        self.last = self._inside("rangeEnd", end, lowest, highest, highest)
        self.gateway = b""
        if gateway is not None:
            number = self._inside("gateway", gateway, lowest, highest, 0)
            self.gateway = _packed(number, self.width)
        if self.first > self.last:
            raise ValueError(f"rangeStart {self.text(self.first)} lies behind rangeEnd {self.text(self.last)}")

    def text(self, number: int) -> str:
        """An address of this range's family in text form."""
        return format_address(_packed(number, self.width))

    def _inside(self, key: str, text: object, lowest: int, highest: int, default: int) -> int:
        if text is None:
            return default
        address = parse_address(text)
        if len(address) != self.width or not lowest <= _number(address) <= highest:
            raise ValueError(f"{key} {text} is outside {self.subnet} ({self.text(lowest)}-{self.text(highest)})")
        return _number(address)

    def overlaps(self, other: "Range") -> bool:
        """Whether an address lies in both."""
        return self.width == other.width and self.first <= other.last and other.first <= self.last


class RangeSet:
    """Ranges of one family, of which an attachment gets one address, and what in them is never handed out."""

    __slots__ = ("excluded", "ranges", "width")

    def __init__(self, ranges: "list[Range]", excluded: "list[tuple[int, int, int]]") -> None:
        """`excluded` are (width, first, last); those of the other family are passed over. Ranges are not empty."""
        self.ranges = ranges
        self.width = ranges[0].width
        spans = [(low, high) for width, low, high in excluded if width == self.width]
        self.excluded = _merged(spans + [(_number(each.gateway),) * 2 for each in ranges if each.gateway])

    def __str__(self) -> str:
        return ", ".join(f"{each.text(each.first)}-{each.text(each.last)}" for each in self.ranges)

    def name(self) -> str:
        """A file name for this set's cursor, made of validated addresses only."""
        return f"{self.ranges[0].text(self.ranges[0].first)}-{self.ranges[-1].text(self.ranges[-1].last)}"

    def size(self) -> int:
        """Addresses that can be handed out."""
        total = 0
        for each in self.ranges:
            total += each.last - each.first + 1
            for low, high in self.excluded:
                total -= max(0, min(high, each.last) - max(low, each.first) + 1)
        return total

    def range_of(self, address: bytes) -> "Range | None":
        """The range that an address lies in, excluded or not."""
        if len(address) != self.width:
            return None
        number = _number(address)
        for each in self.ranges:
            if each.first <= number <= each.last:
                return each
        return None

    def allows(self, address: bytes) -> bool:
        """Whether the set may hand out this address."""
        number = _number(address)
        return self.range_of(address) is not None and not any(low <= number <= high for low, high in self.excluded)

    def gateway_of(self, address: bytes) -> bytes:
        """The gateway that the configuration gives to the address's range, or empty."""
        found = self.range_of(address)
        return found.gateway if found else b""

    def candidates(self, cursor: "bytes | None") -> "Iterator[bytes]":
        """Every address of the set once, beginning behind `cursor` and wrapping round.

        Round robin keeps a freed address out of use as long as the pool allows.
        """
        start, offset = 0, 0
        if cursor is not None:
            number = _number(cursor)
            for position, each in enumerate(self.ranges):
                if each.first <= number <= each.last:
                    start, offset = position, number - each.first + 1
        count = len(self.ranges)
        for step in range(count + 1):
            each = self.ranges[(start + step) % count]
            low = each.first + offset if step == 0 else each.first
            high = each.first + offset - 1 if step == count else each.last
            # What is excluded is leapt over: it may be most of a /8, and the node's lock is held meanwhile.
            for first, last in [*self.excluded, (high + 1, high + 1)]:
                for number in range(low, min(first, high + 1)):
                    yield _packed(number, self.width)
                low = max(low, last + 1)


def parse_exclusion(text: object) -> "tuple[int, int, int]":
    """An address or a subnet to (width in bytes, first, last). Raises ValueError."""
    if isinstance(text, str) and "/" in text:
        address, prefix = parse_subnet(text)
        return len(address), _number(address), _number(address) + (1 << (len(address) * 8 - prefix)) - 1
    address = parse_address(text)
    return len(address), _number(address), _number(address)


def merge_subnets(subnets: "list[str]", width: int) -> "list[str]":
    """Subnets in text, those of one family, to disjoint `first-last` intervals in nft's words.

    Interval sets refuse nested ones.
    """
    spans = [(low, high) for each, low, high in map(parse_exclusion, subnets) if each == width]
    return [
        format_address(_packed(low, width))
        if low == high
        else f"{format_address(_packed(low, width))}-{format_address(_packed(high, width))}"
        for low, high in _merged(spans)
    ]


def neighbours(subnet: str) -> "list[bytes]":
    """The address before a subnet and the one behind it, as far as the family has them."""
    width, low, high = parse_exclusion(subnet)
    return [_packed(number, width) for number in (low - 1, high + 1) if 0 <= number < 1 << (width * 8)]


def _merged(spans: "list[tuple[int, int]]") -> "list[tuple[int, int]]":
    merged: list[tuple[int, int]] = []
    for low, high in sorted(spans):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
        else:
            merged.append((low, high))
    return merged
